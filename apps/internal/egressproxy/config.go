package egressproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/moatproject/moat/core/egress"
)

// Variable is the environment variable that has the configuration as JSON.
const Variable = "MOAT_PROXY"

// config is the configuration. The fields that are not exported have the parsed values.
type config struct {
	Listen  string   `json:"listen"`
	Run     string   `json:"run"`
	Token   string   `json:"token"`   // the password of the run's proxy URL
	Sources []string `json:"sources"` // the run's addresses; no others are served
	Rules   []string `json:"rules"`   // none: everything is denied
	Private []string `json:"private"` // may be reached although they are not public
	Remedy  string   `json:"remedy"`  // the command that allows a destination, which is put behind it
	Relays  []relay  `json:"relays"`

	sources, private []netip.Prefix
	rules            []egress.Rule
}

// parseConfig parses and checks a configuration. Errors begin with the field's name.
func parseConfig(text string) (config, error) {
	if text == "" {
		return config{}, errors.New("it is not set")
	}
	var c config
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return config{}, fmt.Errorf("%s: it has the wrong JSON type (%s)", wrong.Field, wrong.Value)
		}
		return config{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return config{}, errors.New("something follows the JSON object")
	}
	for _, field := range []struct{ name, value string }{{"listen", c.Listen}, {"run", c.Run}, {"token", c.Token}} {
		if field.value == "" {
			return config{}, fmt.Errorf("%s: it is empty", field.name)
		}
	}
	if len(c.Sources) == 0 {
		return config{}, errors.New("sources: there are none, so no client could connect")
	}
	for i, r := range c.Relays {
		if r.Listen == "" {
			return config{}, fmt.Errorf("relays[%d].listen: it is empty", i)
		}
		if host, port, err := net.SplitHostPort(r.To); err != nil || host == "" || port == "" {
			return config{}, fmt.Errorf("relays[%d].to: %q is not host:port", i, r.To)
		}
	}
	var err error
	if c.sources, err = prefixes("sources", c.Sources); err != nil {
		return config{}, err
	}
	if c.private, err = prefixes("private", c.Private); err != nil {
		return config{}, err
	}
	if c.rules, err = egress.ParseRules(c.Rules...); err != nil {
		return config{}, fmt.Errorf("rules: %w", err)
	}
	return c, nil
}

func prefixes(field string, texts []string) ([]netip.Prefix, error) {
	var parsed []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		parsed = append(parsed, prefix)
	}
	return parsed, nil
}
