package optional_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/moatproject/moat/core/optional"
)

func TestLoginErrors(t *testing.T) {
	texts := map[string]bool{}
	for _, problem := range []optional.LoginProblem{optional.LoginMissing, optional.LoginRejected, optional.LoginExpired, optional.LoginDenied} {
		err := &optional.LoginError{Registry: "example.org", Problem: problem, Err: fs.ErrPermission}
		if text := err.Error(); !strings.Contains(text, "example.org") || !strings.HasSuffix(text, ": "+fs.ErrPermission.Error()) || strings.Contains(text, "%!") {
			t.Errorf("%s: %q", problem, text)
		}
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s does not match its reason", problem)
		}
		texts[err.Error()] = true
	}
	if len(texts) != 4 {
		t.Errorf("the problems read alike: %v", texts)
	}
}
