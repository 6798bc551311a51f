package core

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const redacted = "[redacted]"

// Redact returns a text, such as a command's output, without the service's password:
// neither as it is nor as quoted strings, JSON and URLs write it, and where it has
// several lines, without any of them.
func (i ServiceInfo) Redact(text string) string {
	return Redact(text, i.Env[i.PasswordEnv])
}

// Redact returns a text without secrets: neither as they are nor as quoted strings, JSON
// and URLs write them, and of one with several lines, without any of them.
func Redact(text string, secrets ...string) string {
	var pairs []string
	for _, form := range secretForms(secrets...) {
		pairs = append(pairs, form, redacted)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func (i ServiceInfo) secretForms() []string { return secretForms(i.Env[i.PasswordEnv]) }

// secretForms returns how secrets may appear in a text, the longest first, so that
// no form hides a part of another alone.
func secretForms(secrets ...string) []string {
	var lines []string
	for _, secret := range secrets {
		lines = append(lines, append(strings.Split(secret, "\n"), secret)...)
	}
	var forms []string
	for _, secret := range lines {
		if strings.TrimSpace(secret) == "" {
			continue
		}
		asJSON, _ := json.Marshal(secret) // of a string it cannot fail
		forms = append(forms, secret, inner(strconv.Quote(secret)), inner(strconv.QuoteToASCII(secret)), inner(string(asJSON)),
			strings.ReplaceAll(inner(string(asJSON)), "/", `\/`),
			url.QueryEscape(secret), url.PathEscape(secret), strings.ReplaceAll(url.QueryEscape(secret), "+", "%20"),
			strings.TrimPrefix(url.UserPassword("", secret).String(), ":"), strings.ReplaceAll(secret, `'`, `'\''`))
	}
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(forms)
}

// inner returns a quoted string without its quotes.
func inner(quoted string) string { return quoted[1 : len(quoted)-1] }

// How much of an output an error shows, and how much of it is kept to look for secrets.
const (
	tailLines = 10
	tailBytes = 2000
	keptBytes = 64 << 10
)

// tail keeps the end of what is written to it.
type tail struct {
	kept []byte
	cut  bool // there was more
}

func (t *tail) Write(data []byte) (int, error) {
	t.kept = append(t.kept, data...)
	if over := len(t.kept) - keptBytes; over > keptBytes {
		t.kept, t.cut = append(t.kept[:0], t.kept[over:]...), true
	}
	return len(data), nil
}

// of returns the last lines without the service's password, which is taken out before
// they are cut: a part of it nobody would recognise.
func (t *tail) of(i ServiceInfo) string {
	output := string(t.kept)
	if t.cut {
		output = withoutRest(output, i.secretForms())
	}
	output = strings.TrimRight(i.Redact(output), "\n")
	lines := strings.Split(strings.ToValidUTF8(output[max(0, len(output)-tailBytes):], ""), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// withoutRest drops what a text begins with of a secret whose beginning is gone.
func withoutRest(text string, forms []string) string {
	rest := 0
	for _, form := range forms {
		for begin := 1; begin < len(form) && len(form)-begin > rest; begin++ {
			if strings.HasPrefix(text, form[begin:]) {
				rest = len(form) - begin
			}
		}
	}
	return text[rest:]
}

// hide returns an error that does not contain the service's password, nor leads to one
// that does: what it matches stays, and so does what a core.Error of it tells.
func (i ServiceInfo) hide(err error) error {
	if err == nil || i.Redact(err.Error()) == err.Error() {
		return err
	}
	if e, ok := err.(*Error); ok { //nolint:errorlint // of what wraps one the rest has to be hidden as well
		hidden := *e
		hidden.Object, hidden.Remedy, hidden.Err = i.Redact(e.Object), i.Redact(e.Remedy), i.hide(e.Err)
		return &hidden
	}
	return &hiding{
		text: i.Redact(err.Error()),
		is:   func(target error) bool { return errors.Is(err, target) },
		as: func() (*Error, bool) {
			e, ok := errors.AsType[*Error](err)
			if !ok {
				return nil, false
			}
			hidden, ok := i.hide(e).(*Error) //nolint:errorlint // as above
			return hidden, ok
		},
	}
}

// hiding is an error whose cause is out of reach.
type hiding struct {
	text string
	is   func(error) bool
	as   func() (*Error, bool)
}

func (h *hiding) Error() string { return h.text }

func (h *hiding) Is(target error) bool { return h.is(target) }

func (h *hiding) As(target any) bool {
	wanted, ok := target.(**Error)
	if !ok {
		return false
	}
	found, ok := h.as()
	if ok {
		*wanted = found
	}
	return ok
}
