package docker

import (
	"errors"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestRefusedArchive(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /images/load", raw(`{"stream":"Loading"}
{"errorDetail":{"message":"unrecognized image format"},"error":"unrecognized image format"}
`))
	err := engine.runtime(t).LoadImage(t.Context(), strings.NewReader("no archive"))
	if _, shaped := errors.AsType[*core.Error](err); !shaped || !strings.Contains(err.Error(), "unrecognized image format") {
		t.Errorf("got %v", err)
	}
}
