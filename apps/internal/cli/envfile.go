package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// environment joins the lines of files and the values of a flag. Of two equal keys the
// later wins. A key without a value gets this process's value, if there is one.
func environment(env Env, files []string, flag string, values []string) ([]string, error) {
	var entries []string
	for _, file := range files {
		lines, err := readEnvFile(file)
		if err != nil {
			return nil, fmt.Errorf("--env-file %q: %w", file, err)
		}
		entries = append(entries, lines...)
	}
	for _, value := range values {
		if value == "" || value[0] == '=' {
			return nil, fmt.Errorf("%s: %w", flag, errNoVariable) // the value may be a secret
		}
	}
	index := map[string]int{}
	var joined []string
	for _, entry := range append(entries, values...) {
		key, _, hasValue := strings.Cut(entry, "=")
		if !hasValue {
			value, set := env.LookEnv(key)
			if !set {
				continue // as Docker does: nothing to pass on
			}
			entry = key + "=" + value
		}
		if i, seen := index[key]; seen {
			joined[i] = entry
			continue
		}
		index[key] = len(joined)
		joined = append(joined, entry)
	}
	return joined, nil
}

func readEnvFile(name string) ([]string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseEnvFile(file)
}

// maxVariable is the longest variable, with its name, that Linux passes to a program.
const maxVariable = 128<<10 - 1

var (
	errNoVariable = errors.New("there is no variable name; want KEY=value or KEY")
	errBlankName  = errors.New("a variable name contains white space; want KEY=value, without quotes or export")
	errNotUTF8    = errors.New("it is not UTF-8")
	errNUL        = errors.New("it contains a NUL byte")
	errLongLine   = errors.New("it is longer than a variable can be")
)

// parseEnvFile reads lines KEY=value or KEY as Docker does: values are unchanged, with
// quotes and trailing blanks. An error gives the line's number and not its text, which may
// be a secret.
func parseEnvFile(r io.Reader) (lines []string, err error) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxVariable+2) // a line's end included
	number := 1
	for ; scanner.Scan(); number++ {
		line := scanner.Bytes()
		if number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		line = bytes.TrimLeftFunc(line, unicode.IsSpace)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if err := checkVariable(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		lines = append(lines, string(line))
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: %w", number, errLongLine)
	} else if err != nil {
		return nil, err
	}
	return lines, nil
}

func checkVariable(line []byte) error {
	name, _, _ := bytes.Cut(line, []byte("="))
	switch {
	case !utf8.Valid(line):
		return errNotUTF8
	case bytes.IndexByte(line, 0) >= 0:
		return errNUL
	case len(name) == 0:
		return errNoVariable
	case bytes.ContainsFunc(name, unicode.IsSpace):
		return errBlankName
	}
	return nil
}
