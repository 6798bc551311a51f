package cli

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
)

// escapeSequence matches terminal commands, also one cut off by the line's end. Escape
// characters that it misses are removed too.
var escapeSequence = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)`)

// cleanLine makes an untrusted line safe for a terminal: it contains no terminal commands
// and no characters that reorder text. Text that \r would overwrite is removed.
func cleanLine(line string) string {
	line = strings.TrimRight(line, "\r")
	line = line[strings.LastIndexByte(line, '\r')+1:]
	line = strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsGraphic(r) {
			return r
		}
		return -1
	}, escapeSequence.ReplaceAllString(line, ""))
	return strings.TrimRight(line, " \t")
}

// cleanText is cleanLine for several lines, without empty lines at the end.
func cleanText(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = cleanLine(line)
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// maxLine bounds the kept bytes of an unended line.
const maxLine = 16 << 10

// lineBuffer turns pieces of output into clean lines.
type lineBuffer struct{ rest []byte }

// add returns the lines that end in this piece.
func (b *lineBuffer) add(piece []byte) (lines []string) {
	b.rest = append(b.rest, piece...)
	for {
		line, rest, ended := bytes.Cut(b.rest, []byte("\n"))
		if !ended {
			break
		}
		lines, b.rest = append(lines, cleanLine(string(line))), rest
	}
	// A progress bar may rewrite its line without end.
	b.rest = b.rest[bytes.LastIndexByte(bytes.TrimRight(b.rest, "\r"), '\r')+1:]
	if len(b.rest) > maxLine {
		lines, b.rest = append(lines, cleanLine(string(b.rest))), nil
	}
	return lines
}

// unended returns the last line, which has not ended.
func (b *lineBuffer) unended() string { return cleanLine(string(b.rest)) }
