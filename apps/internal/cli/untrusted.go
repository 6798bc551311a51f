package cli

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
)

// escapeSequence is what a terminal takes for a command, whole or cut off by the
// line's end. What it misses loses its escape character all the same.
var escapeSequence = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)`)

// cleanLine makes a line that somebody else wrote fit for a terminal: nothing in it
// commands the terminal or reorders the text. Of what \r overwrites, the last is kept.
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

// cleanText is cleanLine for several lines, less those at the end that are empty.
func cleanText(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = cleanLine(line)
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// maxLine is how many bytes of a line without end are kept.
const maxLine = 16 << 10

// lineBuffer makes clean lines of output that comes in pieces.
type lineBuffer struct{ rest []byte }

// add returns the lines that a piece ends.
func (b *lineBuffer) add(piece []byte) (lines []string) {
	b.rest = append(b.rest, piece...)
	for {
		line, rest, ended := bytes.Cut(b.rest, []byte("\n"))
		if !ended {
			break
		}
		lines, b.rest = append(lines, cleanLine(string(line))), rest
	}
	// A progress bar may rewrite its line for ever.
	b.rest = b.rest[bytes.LastIndexByte(bytes.TrimRight(b.rest, "\r"), '\r')+1:]
	if len(b.rest) > maxLine {
		lines, b.rest = append(lines, cleanLine(string(b.rest))), nil
	}
	return lines
}

// unended returns the line that has no end yet.
func (b *lineBuffer) unended() string { return cleanLine(string(b.rest)) }
