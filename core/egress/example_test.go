package egress_test

import (
	"fmt"

	"github.com/moatproject/moat/core/egress"
)

func Example() {
	rules, err := egress.ParseRules("example.com", "*.example.org", "example.net:80")
	if err != nil {
		fmt.Println(err)
		return
	}
	policy := egress.NewPolicy(rules...)
	for _, text := range []string{"packages.example.org:443", "example.org.evil.example:443", "example.com:80"} {
		destination, err := egress.ParseDestination(text, 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		if rule, allowed := policy.Decide(destination); allowed {
			fmt.Println(destination, "is allowed by", rule)
		} else {
			fmt.Println(destination, "is denied")
		}
	}
	// Output:
	// packages.example.org:443 is allowed by *.example.org:443
	// example.org.evil.example:443 is denied
	// example.com:80 is denied
}
