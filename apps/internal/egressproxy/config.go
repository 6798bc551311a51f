package egressproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moatproject/moat/core/egress"
)

// parseConfig parses and checks a configuration.
func parseConfig(text string) (c egress.ProxyConfig, rules []egress.Rule, err error) {
	if text == "" {
		return c, nil, errors.New("it is not set")
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return c, nil, fmt.Errorf("%s: it has the wrong JSON type (%s)", wrong.Field, wrong.Value)
		}
		return c, nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return c, nil, errors.New("something follows the JSON object")
	}
	if err := c.Validate(); err != nil {
		return c, nil, err
	}
	rules, err = egress.ParseRules(c.Rules...)
	return c, rules, err
}
