package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseEnvFile(t *testing.T) {
	long := "A=" + strings.Repeat("x", maxVariable-2)
	for content, want := range map[string][]string{
		"":                        nil,
		"A=b":                     {"A=b"},
		"A=b\nC=d\n":              {"A=b", "C=d"},
		"A=b\r\nC=d\r\n":          {"A=b", "C=d"},
		"\ufeffA=b\n":             {"A=b"},
		"\ufeff# first\nA=b":      {"A=b"},
		"\ufeff\r\nA=b":           {"A=b"},
		"# comment\n\n \t\n  # x": nil,
		"  \tA=b":                 {"A=b"},
		"\u00a0A=b":               {"A=b"},
		"A= b  ":                  {"A= b  "},
		"A=\"b\" 'c' # d":         {"A=\"b\" 'c' # d"},
		"A=":                      {"A="},
		"A":                       {"A"},
		"A=b=c":                   {"A=b=c"},
		"A=b\rc":                  {"A=b\rc"},
		"a.b-c=1\né=2":            {"a.b-c=1", "é=2"},
		long:                      {long},
		long + "\r\nB=c":          {long, "B=c"},
	} {
		got, err := parseEnvFile(strings.NewReader(content))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%.40q became %.40q, %v, want %.40q", content, got, err, want)
		}
	}
}

func TestEnvFilesThatAreRefused(t *testing.T) {
	for content, want := range map[string]string{
		"A=b\n=secret":                       "line 2: there is no variable name",
		" = secret":                          "line 1: there is no variable name",
		"\n\nA B=secret":                     "line 3: a variable name contains white space",
		"A =secret":                          "line 1: a variable name contains white space",
		"A\u00a0=secret":                     "line 1: a variable name contains white space",
		"A B":                                "line 1: a variable name contains white space",
		"A\t":                                "line 1: a variable name contains white space",
		"export A=secret":                    "line 1: a variable name contains white space",
		"A=b\nB=secret\xff":                  "line 2: it is not UTF-8",
		"\xff\xfeA\x00=\x00b\x00":            "line 1: it is not UTF-8",
		"A\x00=\x00b\x00":                    "line 1: it contains a NUL byte",
		"A=b\nB=" + strings.Repeat("x", 1e6): "line 2: it is longer",
	} {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := environment(testFlagEnv(t), []string{file}, "-e", nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.40q: error %v does not speak of %q in %s", content, err, want, file)
		}
	}
	if _, err := environment(testFlagEnv(t), []string{t.TempDir()}, "-e", nil); err == nil {
		t.Error("a directory was read")
	}
}

func TestVariablesWithoutName(t *testing.T) {
	for _, value := range []string{"", "=", "=secret"} {
		_, err := environment(testFlagEnv(t), nil, "-e", []string{"A=b", value})
		if err == nil || !strings.Contains(err.Error(), "-e: there is no variable name") || strings.Contains(err.Error(), "secret") {
			t.Errorf("-e %q: %v", value, err)
		}
	}
}
