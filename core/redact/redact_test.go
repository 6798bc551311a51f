package redact_test

import (
	"testing"

	"github.com/moatproject/moat/core/redact"
)

func TestRedactSeveral(t *testing.T) {
	if got := redact.Text("short, shorter, and none", "short", "", "shorter"); got != "[redacted], [redacted], and none" {
		t.Errorf("got %q", got)
	}
}
