package services

import (
	"errors"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/redact"
)

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
func (t *tail) of(i core.ServiceInfo) string {
	output := string(t.kept)
	if t.cut {
		output = withoutRest(output, redact.Forms(i.Env[i.PasswordEnv]))
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
func hide(i core.ServiceInfo, err error) error {
	if err == nil || i.Redact(err.Error()) == err.Error() {
		return err
	}
	if e, ok := err.(*core.Error); ok { //nolint:errorlint // of what wraps one the rest has to be hidden as well
		hidden := *e
		hidden.Object, hidden.Remedy, hidden.Err = i.Redact(e.Object), i.Redact(e.Remedy), hide(i, e.Err)
		return &hidden
	}
	return &hiding{
		text: i.Redact(err.Error()),
		is:   func(target error) bool { return errors.Is(err, target) },
		as: func() (*core.Error, bool) {
			e, ok := errors.AsType[*core.Error](err)
			if !ok {
				return nil, false
			}
			hidden, ok := hide(i, e).(*core.Error) //nolint:errorlint // as above
			return hidden, ok
		},
	}
}

// hiding is an error whose cause is out of reach.
type hiding struct {
	text string
	is   func(error) bool
	as   func() (*core.Error, bool)
}

func (h *hiding) Error() string { return h.text }

func (h *hiding) Is(target error) bool { return h.is(target) }

func (h *hiding) As(target any) bool {
	wanted, ok := target.(**core.Error)
	if !ok {
		return false
	}
	found, ok := h.as()
	if ok {
		*wanted = found
	}
	return ok
}
