package cli

import (
	"reflect"
	"strings"
	"testing"
)

func TestCleanLine(t *testing.T) {
	for line, want := range map[string]string{
		"plain\ttext äß日本 😀 │":    "plain\ttext äß日本 😀 │",
		"a \t":                    "a",
		"10%\r20%\r100%\r":        "100%",
		"dos\r":                   "dos",
		"\x1b[1;31mred\x1b[0m":    "red",
		"\x1b[?25l\x1b[2J\x1b[Hx": "x",
		"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\": "alink",
		"\x1bP1$r0m\x1b\\x\x1bcy\x1b(Bz\x1b7":                       "xyz",
		"\x1b]52;c;aGk=":                                            "",
		"\x1b[12":                                                   "",
		"\x1b\x1b[2Ja\x1b":                                          "a",
		"\x1b[\x1b[31mx":                                            "x",
		"a\x00b\x07c\x08d\x7fe\v":                                   "abcde",
		"\u009b31mx\u0085y":                                         "31mxy",
		"\x9b31m":                                                   "\ufffd31m",
		"a\u202eb\u2066c\u200bd":                                    "abcd",
		"\xff\xfe":                                                  "\ufffd\ufffd",
	} {
		if got := cleanLine(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func FuzzCleanLine(f *testing.F) {
	for _, seed := range []string{"a\x1b[31mb", "\x1b]0;x\x07", "\r\n\t", "\u009b\u202e", "\x9b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, r := range cleanLine(line) {
			if r != '\t' && (r < ' ' || (r >= 0x7f && r < 0xa0)) {
				t.Errorf("%q keeps %q", line, r)
			}
		}
	})
}

func TestLineBuffer(t *testing.T) {
	var b lineBuffer
	for _, test := range []struct {
		piece   string
		lines   []string
		unended string
	}{
		{"a", nil, "a"},
		{"b\nc\r", []string{"ab"}, "c"},
		{"\nd\re", []string{"c"}, "e"},
		{"\xe6\x97", nil, "e\ufffd\ufffd"},
		{"\xa5\n\n", []string{"e日", ""}, ""},
		{strings.Repeat("x", maxLine), nil, strings.Repeat("x", maxLine)},
		{"y", []string{strings.Repeat("x", maxLine) + "y"}, ""},
		{strings.Repeat("%\r", maxLine) + "z", nil, "z"},
	} {
		lines := b.add([]byte(test.piece))
		if !reflect.DeepEqual(lines, test.lines) || b.unended() != test.unended {
			t.Errorf("%.20q: got %.40q and %.20q", test.piece, lines, b.unended())
		}
	}
}
