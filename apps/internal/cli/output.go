package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
)

// shortIDLength is how much of an ID the tables show.
const shortIDLength = 12

func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), shortIDLength)]
}

// printJSON writes rows as one array, [] where there are none.
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
