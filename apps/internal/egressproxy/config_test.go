package egressproxy

import (
	"os"
	"strings"
	"testing"

	"github.com/moatproject/moat/core/egress"
)

const minimal = `"listen":":3128","run":"run1","token":"secret","sources":["127.0.0.1/32"]`

func TestParsesTheConfiguration(t *testing.T) {
	c, rules, err := parseConfig(`{` + minimal + `,"rules":["example.com","@npm"],"private":["203.0.113.0/24"],
		"allowby":"run: allow run1","relays":[{"listen":":8080","to":"10.210.0.5:8080"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":3128" || c.Run != "run1" || c.Token != "secret" || c.Sources[0].String() != "127.0.0.1/32" ||
		rules[0].String() != "example.com:443" || len(rules) < 2 || c.Private[0].String() != "203.0.113.0/24" ||
		c.AllowBy != "run: allow run1" || c.Relays[0] != (egress.Relay{Listen: ":8080", To: "10.210.0.5:8080"}) {
		t.Errorf("got %+v", c)
	}
}

func TestRefusesConfigurations(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"none", ``, "not set"},
		{"no JSON", `{`, "unexpected EOF"},
		{"two objects", `{` + minimal + `}{}`, "something follows"},
		{"an unknown field", `{` + minimal + `,"rule":[]}`, `"rule"`},
		{"an unknown field of a relay", `{` + minimal + `,"relays":[{"form":""}]}`, `"form"`},
		{"a field of another type", `{"run":1}`, "run: "},
		{"a relay of another type", `{"relays":[{"to":8080}]}`, "relays.to: "},
		{"nothing to listen at", `{"run":"run1","token":"secret","sources":["127.0.0.1/32"]}`, "listen: it is empty"},
		{"no run", `{"listen":":3128","token":"secret","sources":["127.0.0.1/32"]}`, "run: it is empty"},
		{"no token", `{"listen":":3128","run":"run1","sources":["127.0.0.1/32"]}`, "token: it is empty"},
		{"no sources", `{"listen":":3128","run":"run1","token":"secret"}`, "sources: there are none"},
		{"a bad source", `{"listen":":3128","run":"run1","token":"secret","sources":["127.0.0.1"]}`, `netip.ParsePrefix("127.0.0.1")`},
		{"an empty source", `{"listen":":3128","run":"run1","token":"secret","sources":[""]}`, "sources: "},
		{"a bad private prefix", `{` + minimal + `,"private":["10.0.0.0/33"]}`, `netip.ParsePrefix("10.0.0.0/33")`},
		{"a bad rule", `{` + minimal + `,"rules":["example.com","https://example.org"]}`, `rule "https://example.org"`},
		{"an unknown preset", `{` + minimal + `,"rules":["@cobol"]}`, `"@cobol"`},
		{"a relay that does not listen", `{` + minimal + `,"relays":[{"to":"10.0.0.5:80"}]}`, "relays[0].listen: it is empty"},
		{"a relay to nowhere", `{` + minimal + `,"relays":[{"listen":":80","to":"10.0.0.5:80"},{"listen":":81","to":":80"}]}`, `relays[1].to: ":80"`},
		{"a relay without a port", `{` + minimal + `,"relays":[{"listen":":80","to":"10.0.0.5"}]}`, `relays[0].to: "10.0.0.5"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := parseConfig(test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestRemovesItsConfiguration(t *testing.T) {
	t.Setenv(egress.ProxyVariable, "{}")
	options := Process()
	if left, found := os.LookupEnv(egress.ProxyVariable); found || options.Config != "{}" {
		t.Errorf("got %q, left is %q", options.Config, left)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(`{` + minimal + `,"rules":["example.com","@npm"],"private":["203.0.113.0/24"],"relays":[{"listen":":80","to":"10.0.0.5:80"}]}`)
	f.Add(`{` + minimal + `,"rules":["*.example.com:80"],"allowby":"x"} `)
	f.Add(`{"Run":null,"sources":["::/0"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, rules, err := parseConfig(text)
		switch {
		case err != nil && err.Error() == "":
			t.Error("an error without a text")
		case err == nil && (c.Listen == "" || c.Run == "" || c.Token == "" || len(c.Sources) == 0 || len(rules) < len(c.Rules)):
			t.Errorf("accepted as %+v", c)
		}
	})
}
