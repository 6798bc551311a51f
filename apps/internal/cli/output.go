package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
)

// errReaderGone ends a command whose output has lost its reader, as SIGPIPE would.
var errReaderGone = errors.New("nobody reads the output any more")

// statusReaderGone is the exit status after SIGPIPE.
const statusReaderGone = 128 + int(syscall.SIGPIPE)

// output is standard output or standard error. It keeps its first failure, because some
// writers ignore errors. It is safe for concurrent use: signals are told of beside results.
type output struct {
	writing sync.Mutex // of to
	to      io.Writer
	lost    context.CancelCauseFunc // called when its reader has gone

	mu      sync.Mutex // of failure
	failure error
}

func (o *output) Write(p []byte) (int, error) {
	o.writing.Lock()
	defer o.writing.Unlock()
	n, err := o.to.Write(p)
	if err != nil {
		o.fail(err)
	}
	return n, err
}

func (o *output) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failure != nil {
		return
	}
	o.failure = err
	if errors.Is(err, syscall.EPIPE) {
		o.lost(errReaderGone)
	}
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failure
}

// shortIDLength is the length of IDs in tables.
const shortIDLength = 12

func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), shortIDLength)]
}

// printJSON writes rows as one array, which may be empty.
func printJSON[T any](w io.Writer, rows []T) error {
	if rows == nil {
		rows = []T{}
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(rows)
}

// printTable writes a header and rows in aligned columns.
func printTable(w io.Writer, header []string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// jsonRows writes one array whose rows come one by one.
type jsonRows struct {
	out   io.Writer
	count int
}

func (r *jsonRows) add(row any) error {
	separator := ","
	if r.count == 0 {
		separator = "["
	}
	r.count++
	encoded, err := json.Marshal(row)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.out, "%s\n  %s", separator, encoded)
	return err
}

func (r *jsonRows) finish() error {
	end := "\n]\n"
	if r.count == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(r.out, end)
	return err
}
