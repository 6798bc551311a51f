package core

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// The classes of errors, for [errors.Is]. An adapter maps its engine's failures to these
// and [ErrGVisorNotAvailable], in one place, and defines no others. A failure that fits
// none has no class.
var (
	ErrNotFound          = errors.New("not found")
	ErrAlreadyExists     = errors.New("already exists")
	ErrInvalidConfig     = errors.New("invalid configuration")
	ErrNotRunning        = errors.New("not running")
	ErrInUse             = errors.New("in use")
	ErrUnavailable       = errors.New("runtime unavailable") // down, out of reach, or closed
	ErrPolicyNotEnforced = errors.New("policy not enforced")
	ErrTimeout           = errors.New("timed out")

	// ErrUnsupported also matches [errors.ErrUnsupported].
	ErrUnsupported = fmt.Errorf("not supported by this runtime: %w", errors.ErrUnsupported)
)

// ErrGVisorNotAvailable is returned when gVisor is required, but is missing or does not work.
var ErrGVisorNotAvailable = errors.New(`gVisor (runsc) is required but not available
To install on Linux (Debian/Ubuntu), copy and run:
curl -fsSL https://gvisor.dev/archive.key | sudo gpg --dearmor -o /usr/share/keyrings/gvisor.gpg && \
echo "deb [signed-by=/usr/share/keyrings/gvisor.gpg] https://storage.googleapis.com/gvisor/releases release main" | \
sudo tee /etc/apt/sources.list.d/gvisor.list && \
sudo apt update && sudo apt install -y runsc && \
sudo runsc install && \
sudo systemctl reload docker
For Docker Desktop (macOS/Windows):
See https://gvisor.dev/docs/user_guide/install/
To bypass (reduced isolation):
moat run --no-sandbox`)

// Error is how every failure of a runtime comes back: what was tried, on which
// object, why it failed and what to do next. It matches its Class and its cause.
type Error struct {
	Op      string      // what was tried: "create container"
	Runtime RuntimeType // empty where no runtime was involved
	Object  string      // what it was tried on: a container, image or network
	Field   string      // the field at fault, for ErrInvalidConfig
	Class   error       // one of the sentinels; nil where none fits
	Err     error       // the native cause, or nil
	Remedy  string      // what to do next: an imperative without a full stop; may be empty
}

// Error returns the runtime, operation, object, reason and remedy. It has several lines
// if the class or the cause has.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Runtime != "" {
		b.WriteString(string(e.Runtime) + ": ")
	}
	b.WriteString(e.Op)
	if e.Object != "" {
		fmt.Fprintf(&b, " %q", e.Object)
	}
	if e.Class != nil {
		b.WriteString(": " + e.Class.Error())
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	if e.Err != nil {
		separator := ": "
		if strings.Contains(b.String(), "\n") { // the text above ends with a command to copy
			separator = "\n"
		}
		b.WriteString(separator + e.Err.Error())
	}
	if e.Remedy != "" {
		return withRemedy(b.String(), e.Remedy)
	}
	return b.String()
}

// withRemedy appends a remedy as a sentence of its own, however an engine ended its
// text. After several lines, which may end with a command to copy, it is a line of its own.
func withRemedy(text, remedy string) string {
	text = strings.TrimRight(text, " \t\r\n:;,")
	sentence := strings.TrimRight(text, `"'`+"`)]}")
	switch {
	case strings.Contains(text, "\n"):
		return text + "\n" + remedy
	case sentence != "" && strings.ContainsAny(sentence[len(sentence)-1:], ".?!"):
		return text + " " + remedy
	}
	return text + ". " + remedy
}

// Unwrap makes [errors.Is] and [errors.As] see the class and the cause.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Class, e.Err} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// FieldOf returns the field that an [ErrInvalidConfig] is about, or "".
func FieldOf(err error) string {
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		return ""
	case e.Field == "":
		return FieldOf(e.Err) // an operation's error wraps the check's
	}
	return e.Field
}

// ProgramFailure returns why a program cannot run, [fs.ErrNotExist] or
// [fs.ErrPermission], where err says that it cannot (RT-23, RT-106); otherwise nil.
func ProgramFailure(err error) error {
	if FieldOf(err) != "Cmd" {
		return nil
	}
	for _, reason := range []error{fs.ErrNotExist, fs.ErrPermission} {
		if errors.Is(err, reason) {
			return reason
		}
	}
	return nil
}
