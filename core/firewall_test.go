package core_test

import (
	"errors"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestValidateProxy(t *testing.T) {
	tests := []struct {
		host  string
		port  int
		field string // empty: accepted
	}{
		{"192.0.2.1", 1, ""},
		{"host.docker.internal", 65535, ""},
		{"", 8080, "proxyHost"},
		{"192.0.2.1", 0, "proxyPort"},
		{"192.0.2.1", -1, "proxyPort"},
		{"192.0.2.1", 65536, "proxyPort"},
	}
	for _, test := range tests {
		err := core.ValidateProxy(test.host, test.port)
		if core.FieldOf(err) != test.field || errors.Is(err, core.ErrInvalidConfig) != (test.field != "") {
			t.Errorf("%q:%d: %v", test.host, test.port, err)
		}
	}
}
