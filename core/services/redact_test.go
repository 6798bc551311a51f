package services_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/services"
)

var oddPasswords = []string{
	secret, `it's "odd" \ {b} $(x)`, "a<b>&c", "ünï\tcode", "p@ss/w:rd?#%+", "first line\nsecond 'line'\n\nlast one", "\x01\x7f\xff",
}

func withPassword(password string) core.ServiceInfo {
	cfg := postgres()
	cfg.Env["POSTGRES_PASSWORD"] = password
	return cfg.Info("id", "postgres")
}

// leaks tells which of a password's lines is in a text, as it is.
func leaks(text, password string) string {
	for line := range strings.SplitSeq(password, "\n") {
		if line != "" && strings.Contains(text, line) {
			return line
		}
	}
	return ""
}

func TestRedactWhateverItIs(t *testing.T) {
	for _, password := range oddPasswords {
		info := withPassword(password)
		asJSON, _ := json.Marshal(password)
		const whole = "<[redacted]>"
		for how, test := range map[string]struct{ text, want string }{
			"plain":       {"<" + password + ">", whole},
			"%q":          {fmt.Sprintf("<%q>", password), `<"[redacted]">`},
			"%+q":         {fmt.Sprintf("<%+q>", password), `<"[redacted]">`},
			"JSON":        {"<" + string(asJSON) + ">", `<"[redacted]">`},
			"JSON of PHP": {"<" + strings.ReplaceAll(string(asJSON), "/", `\/`) + ">", `<"[redacted]">`},
			"in a query":  {"<" + url.QueryEscape(password) + ">", whole},
			"in a path":   {"<" + url.PathEscape(password) + ">", whole},
			"in a URL":    {(&url.URL{Scheme: "a", User: url.UserPassword("u", password), Host: "h"}).String(), "a://u:[redacted]@h"},
			"in ours":     {strings.Join(services.Definition{Name: "a", User: "u", Ports: info.Ports, URLScheme: "a"}.MainEnv(info), " "), "MOAT_A_HOST=postgres MOAT_A_PORT=5432 MOAT_A_USER=u MOAT_A_PASSWORD=[redacted] MOAT_A_URL=a://u:[redacted]@postgres:5432"},
			"for sh":      {"<'" + strings.ReplaceAll(password, "'", `'\''`) + "'>", "<'[redacted]'>"},
		} {
			if got := info.Redact(test.text); got != test.want {
				t.Errorf("%s: %q became %q", how, test.text, got)
			}
		}
		if got := info.Redact("> " + strings.ReplaceAll(password, "\n", "\n> ")); leaks(got, password) != "" {
			t.Errorf("as lines: %q", got)
		}
	}
	if got := withPassword("").Redact("as it is"); got != "as it is" {
		t.Errorf("without one: %q", got)
	}
}

// TestErrorsAreCutAfterTheyAreRedacted has passwords wherever an output may be cut.
func TestErrorsAreCutAfterTheyAreRedacted(t *testing.T) {
	check := func(password, output string) string {
		info := withPassword(password)
		info.ReadinessCmd = "ask"
		e := &engine{state: core.StateRunning, code: 1, said: output}
		return services.NewManager(able{e}).CheckReady(t.Context(), info).Error()
	}
	const password = "abcdefghijklmnopqrstuvwxyz0123456789"
	for after := range 40 {
		for _, limit := range []int{2000, 64 << 10, 128 << 10} {
			text := check(password, strings.Repeat("-", limit)+password+strings.Repeat("=", limit-after)+"\n")
			for part := range len(password) - 3 {
				if strings.Contains(text, password[part:part+3]) {
					t.Fatalf("a password %d before a cut of %d: %q", after, limit, text)
				}
			}
		}
	}
	// Nothing but passwords, of which the first that is kept has lost its beginning.
	var long strings.Builder
	for i := range 1000 {
		fmt.Fprint(&long, i, "-")
	}
	if text := check(long.String(), strings.Repeat(long.String(), 50)); strings.Contains(text, "-") {
		t.Errorf("a long password: %q", text)
	}
	lines := "the first\nthe second\nthe third"
	text := check(lines, strings.Repeat("-\n", 20)+lines+strings.Repeat("\n=", 9))
	if leak := leaks(text, lines); leak != "" {
		t.Errorf("%q is left in %q", leak, text)
	}
}

func TestHiddenErrorsStayHidden(t *testing.T) {
	cause := fmt.Errorf("it said %s: %w", secret, errBroken)
	for name, failure := range map[string]error{
		"a core.Error":         &core.Error{Op: "start", Object: secret, Field: "Cmd", Class: core.ErrInvalidConfig, Err: cause, Remedy: "not " + secret},
		"one that is wrapped":  fmt.Errorf("%s: %w", secret, &core.Error{Op: "start", Field: "Cmd", Class: core.ErrInvalidConfig, Err: cause}),
		"one that is joined":   errors.Join(cause, &core.Error{Op: "start", Field: "Cmd", Class: core.ErrInvalidConfig, Err: cause}),
		"one within one":       &core.Error{Op: "a", Err: &core.Error{Op: "start", Field: "Cmd", Class: core.ErrInvalidConfig, Err: cause}},
		"one that knows of it": fmt.Errorf("%s: %w", secret, errors.Join(errBroken, &core.Error{Op: "start", Field: "Cmd", Class: core.ErrInvalidConfig})),
	} {
		_, err := services.NewManager(&engine{create: failure}).StartService(context.Background(), postgres())
		if !errors.Is(err, errBroken) || !errors.Is(err, core.ErrInvalidConfig) || errors.Is(err, core.ErrNotFound) || core.FieldOf(err) != "Cmd" {
			t.Errorf("%s does not tell what it did: %v", name, err)
		}
		var found *core.Error
		if !errors.As(err, &found) {
			t.Errorf("%s: no core.Error in %v", name, err)
			continue
		}
		for _, shown := range []error{err, found, found.Err, errors.Unwrap(err)} {
			if text := fmt.Sprintf("%v %+v %#v", shown, shown, shown); strings.Contains(text, secret) {
				t.Errorf("%s: the password is in %q", name, text)
			}
		}
		var other interface{ Timeout() bool }
		if errors.As(err, &other) {
			t.Errorf("%s: %v", name, other)
		}
	}
}
