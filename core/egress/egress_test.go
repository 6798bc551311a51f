package egress

import (
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestParseDestination(t *testing.T) {
	tests := []struct {
		text, want string // want is the destination, or after "!" a part of the error
	}{
		{"example.com", "example.com:8080"},
		{"example.com:443", "example.com:443"},
		{"EXAMPLE.com.:443", "example.com:443"}, // P3
		{"a_b-c.example.com:1", "a_b-c.example.com:1"},
		{"xn--bcher-kva.example:65535", "xn--bcher-kva.example:65535"},
		{"localhost:80", "localhost:80"}, // a rule may name it; its address is refused later

		{"", "!no host"},
		{":443", "!no host"},
		{".", "!no host"},
		{"a.com:", "!not a port"},
		{"a.com:0", "!not a port"},
		{"a.com:65536", "!not a port"},
		{"a.com:+80", "!not a port"},
		{"a.com:0x50", "!not a port"},
		{"a.com:80:80", "!not a port"},
		{"a.com.:80.", "!not a port"},
		{"a.com\x00:443", "!NUL"}, // P1
		{"a.com\x00.evil.com:443", "!NUL"},
		{"a.com:44\x003", "!NUL"},
		{"a.com\r\n:443", "!control"},
		{"a.com\x7f:443", "!control"},
		{"a%2ecom:443", "!percent"},
		{"[a.com]:443", "!brackets"}, // P2
		{"[[a.com]]:80", "!brackets"},
		{"[::1]:443", "!brackets"}, // P8
		{"[::ffff:127.0.0.1]", "!brackets"},
		{"user@a.com:443", "!user information"},
		{"user:pw@a.com:443", "!user information"},
		{"a..com:443", "!empty label"},
		{"-a.com:443", "!hyphen"},
		{"--help:443", "!hyphen"},
		{"a-.a--b.com:443", "a-.a--b.com:443"},
		{".a.com:443", "!empty label"},
		{"a.com..:443", "!empty label"},
		{"a .com:443", "!characters"},
		{"a.com/:443", "!characters"},
		{"a.com\\:443", "!characters"},
		{"*.a.com:443", "!characters"},
		{"bücher.example:443", "!outside ASCII"},
		{"BÜCHER.example:443", "!outside ASCII"},
		{"a\xff.example:443", "!outside ASCII"},
		{"\u212aube.example", "!outside ASCII"}, // the Kelvin sign, whose lower case is k
		{"127.0.0.1:443", "!IP address"},        // P4
		{"127.1:443", "!IP address"},
		{"0x7f000001:443", "!IP address"},
		{"0X7F.1:443", "!IP address"},
		{"2130706433:443", "!IP address"},
		{"0:443", "!IP address"},
		{"1.2.3.4.:443", "!IP address"},
		{"::1", "!not a port"},
		{strings.Repeat("a", 64) + ".com", "!63"},
		{strings.Repeat("abcdefg.", 32), "!253"},
	}
	for _, test := range tests {
		got, err := ParseDestination(test.text, 8080)
		part, wantErr := strings.CutPrefix(test.want, "!")
		switch {
		case wantErr && (err == nil || !strings.Contains(err.Error(), part)):
			t.Errorf("ParseDestination(%q) = %v, %v, want an error with %q", test.text, got, err, part)
		case !wantErr && (err != nil || got.String() != test.want):
			t.Errorf("ParseDestination(%q) = %v, %v, want %v", test.text, got, err, test.want)
		}
	}
	if got, err := ParseDestination("a.com", 0); err == nil {
		t.Errorf("without a port and a default, got %v", got)
	}
}

func TestParseRule(t *testing.T) {
	tests := []struct{ text, want string }{
		{"example.com", "example.com:443"},
		{"Example.COM.:80", "example.com:80"},
		{"*.example.org", "*.example.org:443"},
		{"*.example.org:8443", "*.example.org:8443"},

		{"", "!no host"},
		{"*", "!only at the beginning"},
		{"*:443", "!only at the beginning"},
		{"*.", "!no host"},
		{"*.com", "!top-level domain"},
		{"*.com.", "!top-level domain"},
		{"*.*.com", "!only at the beginning"},
		{"a.*.com", "!only at the beginning"},
		{"*a.com", "!only at the beginning"},
		{"*..a.com", "!empty label"},
		{"--help", "!hyphen"},
		{"*.-a.com", "!hyphen"},
		{"a.com:0", "!not a port"},
		{"https://a.com", "!interception"},
		{"a.com/path", "!interception"},
		{"GET a.com", "!interception"},
		{"*.bücher.example", "!xn--"},
		{"10.0.0.1:80", "!IP address"},
		{"[2001:db8::1]:80", "!brackets"},
		{"@npm", "!not a single rule"},
	}
	for _, test := range tests {
		got, err := ParseRule(test.text)
		part, wantErr := strings.CutPrefix(test.want, "!")
		switch {
		case wantErr && (!errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "Egress" || !strings.Contains(err.Error(), part)):
			t.Errorf("ParseRule(%q) = %v, %v, want an error with %q", test.text, got, err, part)
		case !wantErr && (err != nil || got.String() != test.want):
			t.Errorf("ParseRule(%q) = %v, %v, want %v", test.text, got, err, test.want)
		}
	}
}

func TestDecide(t *testing.T) {
	rules, err := ParseRules("example.com", "*.example.org:8443", "plain.example:80", "www.example.org:8443")
	if err != nil {
		t.Fatal(err)
	}
	policy := NewPolicy(rules...)
	for text, want := range map[string]string{
		"example.com:443":           "example.com:443",
		"a.example.org:8443":        "*.example.org:8443",
		"a.b.example.org:8443":      "*.example.org:8443",
		"www.example.org:8443":      "*.example.org:8443", // the first of two that overlap
		"plain.example:80":          "plain.example:80",
		"example.com:80":            "",
		"www.example.com:443":       "",
		"example.org:8443":          "",
		"evilexample.org:8443":      "", // P10
		"example.org.evil.com:8443": "",
		"evil-example.com:443":      "",
		"plain.example:443":         "",
	} {
		d, err := ParseDestination(text, 0)
		if err != nil {
			t.Fatal(err)
		}
		rule, allowed := policy.Decide(d)
		if allowed != (want != "") || allowed && rule.String() != want {
			t.Errorf("Decide(%v) = %v, %v, want %q", d, rule, allowed, want)
		}
		if rule, allowed := (Policy{}).Decide(d); allowed {
			t.Errorf("the zero policy allows %v by %v", d, rule) // P19
		}
	}
	if (Rule{}).Allows(Destination{}) {
		t.Error("the zero rule allows the zero destination")
	}
	rules[0] = rules[1]
	if policy.Rules()[0] == rules[0] {
		t.Error("the policy shares the caller's rules")
	}
}

func TestPresets(t *testing.T) {
	sections := strings.Split(presetsFile, "\n@")[1:]
	for _, section := range sections {
		name, lines, _ := strings.Cut(section, "\n")
		rules, err := ParseRules("first.example", "@"+name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, rule := range rules[1:] {
			got = append(got, rule.String())
		}
		lines, _, _ = strings.Cut(lines, "\n\n")
		want := slices.DeleteFunc(strings.Fields(strings.ReplaceAll(lines, "# ", "#")), func(word string) bool { return strings.HasPrefix(word, "#") })
		if !slices.Equal(got, want) || len(want) == 0 || rules[0].String() != "first.example:443" {
			t.Errorf("@%s is %v, want %v", name, rules, want)
		}
		if !strings.Contains(section, "\n# https://") {
			t.Errorf("a preset without a source: @%s", name)
		}
	}
	if len(sections) != len(Presets()) {
		t.Errorf("%d sections, and the presets %v", len(sections), Presets())
	}
	if _, err := ParseRules("@nmp"); !errors.Is(err, core.ErrInvalidConfig) || !strings.Contains(err.Error(), "@debian, @github, @golang, @npm, @pypi") {
		t.Errorf("an unknown preset: %v", err)
	}
	if rules, err := ParseRules("a.example", "b:c"); err == nil || rules != nil {
		t.Errorf("after an invalid rule: %v, %v", rules, err)
	}
}

func TestClassify(t *testing.T) {
	for text, want := range map[string]Class{
		"8.8.8.8": Public, "1.1.1.1": Public, "172.32.0.1": Public, "100.128.0.1": Public, "2606:4700::1111": Public, "::ffff:8.8.8.8": Public,
		"127.0.0.1": "loopback", "127.255.255.255": "loopback", "::1": "loopback", "0.0.0.0": "unspecified", "0.1.2.3": "unspecified", "::": "unspecified",
		"10.0.0.1": "private", "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private", "fd12::1": "private", "fec0::1": "private",
		"169.254.1.1": "link-local", "fe80::1": "link-local", "100.64.0.1": "carrier-grade NAT", "100.127.255.255": "carrier-grade NAT",
		"224.0.0.1": "multicast", "255.255.255.255": "reserved", "240.0.0.1": "reserved", "ff02::1": "multicast",
		"169.254.169.254": Metadata, "::ffff:169.254.169.254": Metadata, "fd00:ec2::254": Metadata, "100.100.100.200": Metadata, "168.63.129.16": Metadata,
		"::ffff:127.0.0.1": "loopback", "::ffff:10.0.0.1": "private", // P5
		"64:ff9b::7f00:1": "NAT64", "64:ff9b::808:808": "NAT64", "64:ff9b:1::a00:1": "NAT64",
		"2002:7f00:1::": "6to4", "2001:0:808:808::1": "Teredo", "2001:20::1": "reserved", "::127.0.0.1": "reserved", "::ffff:0:127.0.0.1": "reserved",
		"198.18.0.1": "benchmark", "192.0.2.1": "documentation", "2001:db8::1": "documentation", "3fff::1": "documentation",
		"100::1": "reserved", "5f00::1": "reserved", "4000::1": "reserved", "192.0.0.8": "reserved", "fe80::1%eth0": "invalid",
		"2606:4700::1%1": "invalid",
	} {
		if got := Classify(netip.MustParseAddr(text)); got != want {
			t.Errorf("Classify(%s) = %q, want %q", text, got, want)
		}
	}
	if got := Classify(netip.Addr{}); got != "invalid" {
		t.Errorf("the zero address is %q", got)
	}
}

var canonical = regexp.MustCompile(`^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*:[1-9][0-9]{0,4}$`)

func FuzzParseDestination(f *testing.F) {
	for _, text := range []string{"a.com:443", "A.com.", "[::1]:80", "a%00b", "127.1:1", "bücher.example", "u@h:1", "..", "a:b:c", "\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDestination(text, 80)
		if err != nil {
			return
		}
		host, port, _ := strings.Cut(d.String(), ":")
		if !canonical.MatchString(d.String()) || len(host) > 253 {
			t.Fatalf("%q became %v", text, d)
		}
		if again, err := ParseDestination(d.String(), 0); err != nil || again != d {
			t.Fatalf("%q became %v, and then %v, %v", text, d, again, err)
		}
		if _, err := netip.ParseAddr(host); err == nil {
			t.Fatalf("%q became the address %v", text, d)
		}
		// Nothing of the text was left out.
		want := strings.ToLower(text)
		if want != host && want != host+"." && !sameHostPort(want, host, port) {
			t.Fatalf("%q became %v", text, d)
		}
	})
}

func sameHostPort(text, host, port string) bool {
	textHost, textPort, found := strings.Cut(text, ":")
	return found && strings.TrimSuffix(textHost, ".") == host && strings.TrimLeft(textPort, "0") == port
}

func FuzzPolicy(f *testing.F) {
	f.Add("*.example.com:443", "a.example.com:443")
	f.Add("example.com", "EXAMPLE.com.")
	f.Add("*.b.c", "xb.c")
	f.Add("@npm", "a.example.org:443")
	f.Add("a/b", "a")
	f.Fuzz(func(t *testing.T, ruleText, text string) {
		rule, err := ParseRule(ruleText)
		if err != nil {
			return
		}
		if again, err := ParseRule(rule.String()); err != nil || again != rule {
			t.Fatalf("%q became %v, and then %v, %v", ruleText, rule, again, err)
		}
		d, err := ParseDestination(text, 443)
		if err != nil {
			return
		}
		_, allowed := NewPolicy(rule).Decide(d)
		if want := allowsByLabels(rule.String(), d.String()); allowed != want {
			t.Fatalf("%v allows %v: %v, want %v", rule, d, allowed, want)
		}
	})
}

// allowsByLabels decides on its own: label by label from the right.
func allowsByLabels(rule, destination string) bool {
	ruleHost, rulePort, _ := strings.Cut(rule, ":")
	host, port, _ := strings.Cut(destination, ":")
	want, got := strings.Split(ruleHost, "."), strings.Split(host, ".")
	if rulePort != port {
		return false
	}
	for len(want) > 0 && len(got) > 0 {
		if want[len(want)-1] == "*" {
			return true
		}
		if want[len(want)-1] != got[len(got)-1] {
			return false
		}
		want, got = want[:len(want)-1], got[:len(got)-1]
	}
	return len(want) == 0 && len(got) == 0
}
