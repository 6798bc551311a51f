// Package message reads the lines of JSON by which an engine tells how a pull, a load or a
// classic build goes.
package message

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/moatproject/moat/core/optional"
)

// Message is a line of such an answer.
type Message struct {
	ID       string `json:"id"`
	Status   string `json:"status"`
	Progress struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
	Error       string `json:"error"` // only this on older engines
	ErrorDetail struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
}

// ReadPull reads the answer to a pull or a load to its end. An error in it is the pull's error.
func ReadPull(body io.Reader, ref string, sink optional.PullSink) error {
	lines := json.NewDecoder(body)
	for {
		var message Message
		switch err := lines.Decode(&message); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if failure := message.Failure(); failure != "" {
			return errors.New(failure)
		}
		if sink != nil {
			sink(optional.PullProgress{
				Image: ref, Layer: message.Layer(), Status: message.Status,
				Current: message.Progress.Current, Total: message.Progress.Total,
			})
		}
	}
}

// Failure returns the engine's error, "" where the line is none.
func (m Message) Failure() string { return cmp.Or(m.ErrorDetail.Message, m.Error) }

// Layer returns the layer that the line is about. The first line of a pull has the tag in
// its place.
func (m Message) Layer() string {
	if strings.HasPrefix(m.Status, "Pulling from ") {
		return ""
	}
	return m.ID
}
