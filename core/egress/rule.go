package egress

import (
	_ "embed" // the presets
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/moatproject/moat/core"
)

// DefaultPort is the port of a rule that names none: HTTPS. Plain HTTP has to be asked
// for as "host:80", because anyone on the way can read and change it.
const DefaultPort = 443

// Rule allows one host, or all names below a domain, on one port. The zero value allows
// nothing.
type Rule struct {
	host       string
	port       uint16
	subdomains bool // the names below host, not host itself
}

// String returns the rule's canonical text, such as "*.example.org:443". It identifies
// the rule: [ParseRule] makes the same rule of it.
func (r Rule) String() string {
	text := Destination{r.host, r.port}.String()
	if r.subdomains {
		return "*." + text
	}
	return text
}

// Allows tells whether the rule allows a destination.
func (r Rule) Allows(d Destination) bool {
	if r.host == "" || r.port != d.Port {
		return false
	}
	if !r.subdomains {
		return d.Host == r.host
	}
	below, ok := strings.CutSuffix(d.Host, "."+r.host)
	return ok && below != ""
}

// ParseRule parses "host[:port]" or "*.domain[:port]". The host is that of
// [ParseDestination], and the port without one is [DefaultPort]. "*.example.com" allows
// a.example.com and a.b.example.com, but not example.com. An invalid rule, also one with
// a method or a path, is [core.ErrInvalidConfig] of the field Egress.
func ParseRule(text string) (Rule, error) {
	rule, err := parseRule(text)
	if err != nil {
		return Rule{}, core.Invalid("Egress", "rule %q: %w", text, err)
	}
	return rule, nil
}

func parseRule(text string) (Rule, error) {
	switch {
	case strings.HasPrefix(text, "@"):
		return Rule{}, errors.New("a preset is not a single rule")
	case strings.ContainsAny(text, "/ ?#\t"):
		return Rule{}, errors.New("methods, schemes and paths need interception of TLS, which Moat does not have; write host[:port]")
	}
	host, subdomains := strings.CutPrefix(text, "*.")
	if strings.Contains(host, "*") {
		return Rule{}, errors.New("a * stands only at the beginning, as in *.example.com")
	}
	destination, err := ParseDestination(host, DefaultPort)
	if err != nil {
		return Rule{}, err
	}
	if subdomains && !strings.Contains(destination.Host, ".") {
		return Rule{}, errors.New("it allows a whole top-level domain; name at least two labels after the *")
	}
	return Rule{destination.Host, destination.Port, subdomains}, nil
}

// ParseRules parses rules, and presets such as "@npm", each of which stands for several
// rules. The first invalid text is an error as in [ParseRule]. That of an unknown preset
// lists those that exist.
func ParseRules(texts ...string) ([]Rule, error) {
	var rules []Rule
	for _, text := range texts {
		if preset, ok := strings.CutPrefix(text, "@"); ok {
			of, known := presets()[preset]
			if !known {
				return nil, core.Invalid("Egress", "there is no preset %q, only @%s", text, strings.Join(Presets(), ", @"))
			}
			rules = append(rules, of...)
			continue
		}
		rule, err := ParseRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// Presets returns the names of the presets in order, without the @.
func Presets() []string { return slices.Sorted(maps.Keys(presets())) }

//go:embed presets.txt
var presetsFile string

// presets reads the file of presets, which a test checks.
var presets = sync.OnceValue(func() map[string][]Rule {
	of, name := map[string][]Rule{}, ""
	for line := range strings.Lines(presetsFile) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if preset, ok := strings.CutPrefix(line, "@"); ok {
			name = preset
			continue
		}
		rule, err := parseRule(line)
		if err != nil {
			panic("presets.txt: " + line + ": " + err.Error())
		}
		of[name] = append(of[name], rule)
	}
	return of
})

// Policy is the set of rules of a run. The zero value denies everything. A Policy does
// not change, so it is safe for concurrent use.
type Policy struct{ rules []Rule }

// NewPolicy returns a policy of these rules.
func NewPolicy(rules ...Rule) Policy { return Policy{slices.Clone(rules)} }

// Rules returns the rules in their order.
func (p Policy) Rules() []Rule { return slices.Clone(p.rules) }

// Decide returns the first rule that allows a destination, or false, which means
// that it is denied. The method of a request does not matter, because no rule names methods.
func (p Policy) Decide(d Destination) (Rule, bool) {
	for _, rule := range p.rules {
		if rule.Allows(d) {
			return rule, true
		}
	}
	return Rule{}, false
}
