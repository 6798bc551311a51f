package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ProxyVariable is the environment variable that has the configuration of a proxy's
// program, a [ProxyConfig] as JSON. The program removes it from its environment.
const ProxyVariable = "MOAT_PROXY"

// ProxyConfig configures the program that is the egress proxy of one run.
type ProxyConfig struct {
	Listen  string         `json:"listen"` // ":3128"
	Run     string         `json:"run"`
	Token   string         `json:"token"`             // the password of the run's proxy URL
	Sources []netip.Prefix `json:"sources"`           // the run's addresses; no others are served
	Rules   []string       `json:"rules,omitempty"`   // as [ParseRules] reads them; none: everything is denied
	Private []netip.Prefix `json:"private,omitempty"` // may be reached although they are not public
	AllowBy string         `json:"allowby,omitempty"` // the command that allows the destination that is put behind it
	Relays  []Relay        `json:"relays,omitempty"`  // TCP ports that lead inwards
}

// Relay passes TCP connections on.
type Relay struct {
	Listen string `json:"listen"` // ":8080"
	To     string `json:"to"`     // "HOST:PORT"
}

// Validate reports the first field that no proxy could honour.
func (c ProxyConfig) Validate() error {
	switch {
	case c.Listen == "":
		return errors.New("listen: it is empty")
	case c.Run == "":
		return errors.New("run: it is empty")
	case c.Token == "":
		return errors.New("token: it is empty")
	case len(c.Sources) == 0:
		return errors.New("sources: there are none, so nothing could use the proxy")
	}
	for name, prefixes := range map[string][]netip.Prefix{"sources": c.Sources, "private": c.Private} {
		for _, prefix := range prefixes {
			if !prefix.IsValid() {
				return fmt.Errorf("%s: an empty prefix", name)
			}
		}
	}
	for i, relay := range c.Relays {
		if relay.Listen == "" {
			return fmt.Errorf("relays[%d].listen: it is empty", i)
		}
		colon := strings.LastIndexByte(relay.To, ':')
		if colon < 1 || colon == len(relay.To)-1 {
			return fmt.Errorf("relays[%d].to: %q is not HOST:PORT", i, relay.To)
		}
	}
	if _, err := ParseRules(c.Rules...); err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	return nil
}
