package driver

import (
	"context"
	"errors"
	"io"
)

// CallerError is the failure of a reader or writer of the caller's, for which no engine
// is to blame.
type CallerError struct{ Err error }

func (e *CallerError) Error() string { return e.Err.Error() }

// Unwrap returns the caller's own error.
func (e *CallerError) Unwrap() error { return e.Err }

// CallerWriter returns a writer whose failures are w's as a [*CallerError]. A nil w
// discards.
func CallerWriter(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return callerWriter{w}
}

type callerWriter struct{ to io.Writer }

func (w callerWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		err = &CallerError{err}
	}
	return n, err
}

// CallerReader is a caller's reader until the end of a context. It begins no Read after
// that, and drops what a Read in progress returns.
type CallerReader struct {
	Context context.Context
	Reader  io.Reader

	// Failure is the reader's own, a [*CallerError], apart from those of a copy's other
	// side. It is nil at the good end.
	Failure error
}

func (r *CallerReader) Read(p []byte) (int, error) {
	if err := r.Context.Err(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &CallerError{err}
		r.Failure = err
	}
	if r.Context.Err() != nil {
		return 0, r.Context.Err()
	}
	return n, err
}
