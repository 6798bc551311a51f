package core_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestExtraCmdPlaceholders(t *testing.T) {
	env := map[string]string{"PW": "s3cret", "Key": "a b", "LOOP": "{loop}{key}{password}", "EMPTY": "", "dup": "small", "DUP": "capital"}
	tests := []struct{ arg, want string }{
		{"", ""},
		{"plain", "plain"},
		{"{password}", "s3cret"},
		{"{pw}{key}", "s3creta b"},
		{"x={key}{key};", "x=a ba b;"},
		{"{empty}", ""},
		{"{loop}", "{loop}{key}{password}"},
		{"{unknown} {} {Key} { key} {{key}} {key {key", "{unknown} {} {Key} { key} {a b} {key {key"},
		{"{dup}", "small"},
	}
	for _, test := range tests {
		cfg := core.ServiceConfig{Env: env, PasswordEnv: "PW", ExtraCmd: []string{"first", test.arg}}
		if got := cfg.Container().Cmd; !slices.Equal(got, []string{"first", test.want}) {
			t.Errorf("%q: got %q, want %q", test.arg, got, test.want)
		}
	}

	cfg := core.ServiceConfig{Env: map[string]string{"PASSWORD": "its own"}, ExtraCmd: []string{"{password}"}}
	if got := cfg.Container().Cmd[0]; got != "its own" {
		t.Errorf("without PasswordEnv: %s", got)
	}
	cfg.PasswordEnv = "MISSING"
	if got := cfg.Container().Cmd[0]; got != "its own" {
		t.Errorf("without that variable: %s", got)
	}
}

func TestReadinessScriptText(t *testing.T) {
	tests := []struct {
		cmd, script string
		env         []string
	}{
		{"", "", nil},
		{"true", "true", nil},
		{"x -p{password}", `x -p"${MOAT_PLACEHOLDER_1}"`, []string{"MOAT_PLACEHOLDER_1=s3cret"}},
		{"x {key} {password} {key}", `x "${MOAT_PLACEHOLDER_1}" "${MOAT_PLACEHOLDER_2}" "${MOAT_PLACEHOLDER_1}"`, []string{"MOAT_PLACEHOLDER_1={password}", "MOAT_PLACEHOLDER_2=s3cret"}},
		{`x "{key}"`, `x "${MOAT_PLACEHOLDER_1}"`, []string{"MOAT_PLACEHOLDER_1={password}"}},
		{`x '{key}'`, `x ''"${MOAT_PLACEHOLDER_1}"''`, []string{"MOAT_PLACEHOLDER_1={password}"}},
		{`${key} \{key} {unknown} {key`, `${key} \{key} {unknown} {key`, nil},
		{"# {key} isn't\nx {key}", "# {key} isn't\nx \"${MOAT_PLACEHOLDER_1}\"", []string{"MOAT_PLACEHOLDER_1={password}"}},
		{"\\", "\\", nil},
		{"\x00\x00{key}", "\x00\x00\"${MOAT_PLACEHOLDER_1}\"", []string{"MOAT_PLACEHOLDER_1={password}"}},
	}
	for _, test := range tests {
		info := core.ServiceInfo{Env: map[string]string{"PW": "s3cret", "KEY": "{password}"}, PasswordEnv: "PW", ReadinessCmd: test.cmd}
		script, env := info.ReadinessScript()
		if script != test.script || !slices.Equal(env, test.env) {
			t.Errorf("%q\ngot  %s %q\nwant %s %q", test.cmd, script, env, test.script, test.env)
		}
	}
}

// oddValues are what a shell would stumble over.
var oddValues = []string{
	"plain", "", " ", "two words", " a  b ", "*", "/*", "~", "-n", "'", `"`, `'"'"`, "`touch pwned`", "$(touch pwned)", "${HOME}", "$HOME", "$",
	`\`, `\n`, `a\`, "line\nline", "trailing\n\n", "\t", "; exit 7", "&& exit 7", "| exit 7", "#no", "{password}", "{other}", "}", "{", "é\xff", "!!", "(", ")", "a=b",
}

// Each template prints its words, one for each placeholder, between brackets.
var templates = []string{
	`printf '[%s]' {key}`,
	`printf '[%s]' "{key}"`,
	`printf '[%s]' '{key}'`,
	`printf '[%s]' {key} {key}`,
	`printf '[%s]' ''{key}''""`,
	`v={key}; printf '[%s]' "$v"`,
	`v={key} sh -c 'printf "[%s]" "$v"'`,
	`printf '%s' "$(printf '[%s]' {key})"`,
	`printf '%s' "$(printf '[%s]' "{key}")"`,
	`printf '%s' "$(printf '[%s]' '{key}')"`,
	"printf '%s' \"`printf '[%s]' {key}`\"",
	"printf '%s' `:`\"`printf '[%s]' \"{key}\"`\"",
	`(printf '[%s]' {key})`,
	`printf '%s' "$( (printf '[%s]' {key}) )"`,
	`printf '%s' "$( (:); printf '[%s]' {key})"`,
	`: "it's" && printf '[%s]' {key}`,
	`: 'a "b' && printf '[%s]' {key}`,
	`: \" \' && printf '[%s]' {key}`,
	`: "\"" && printf '[%s]' {key}`,
	`: 'a\' && printf '[%s]' {key}`,
	`: "a (b" '(' && printf '[%s]' "{key}"`,
	`: a#it $# ${#HOME} "#" && printf '[%s]' {key}`,
	"# it's (\n#\"\nprintf '[%s]' {key} # {key}'",
	`case x in x) printf '[%s]' {key};; esac`,
	`: "${x:-it}'s" && printf '[%s]' "{key}"`,
	`if [ x"{key}" = x{key} ]; then printf '[%s]' {key}; fi`,
}

// TestReadinessScriptInShells has real shells parse what the scripts are made of: each
// template once for each odd value, one after the other in one script.
func TestReadinessScriptInShells(t *testing.T) {
	for _, shell := range []string{"sh", "bash"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		for _, template := range templates {
			t.Run(shell+" "+template, func(t *testing.T) {
				info := core.ServiceInfo{Env: map[string]string{}}
				var want strings.Builder
				for i, value := range oddValues {
					info.Env[fmt.Sprint("KEY", i)] = value
					info.ReadinessCmd += strings.ReplaceAll(template, "{key}", fmt.Sprintf("{key%d}", i)) + "\n"
					want.WriteString(strings.Repeat("["+value+"]", max(1, strings.Count(template, "{key} {key}")*2)))
				}
				script, env := info.ReadinessScript()
				cmd := exec.Command(path, "-c", script)
				cmd.Dir = t.TempDir() // with nothing in it that * could match
				cmd.Env = append(cmd.Environ(), env...)
				if out, err := cmd.CombinedOutput(); string(out) != want.String() || err != nil {
					t.Errorf("%v\ngot  %q\nwant %q\n%s", err, out, want.String(), script)
				}
			})
		}
	}
}

func FuzzReadinessScript(f *testing.F) {
	for i, template := range templates {
		f.Add(template, oddValues[i], oddValues[len(oddValues)-1-i])
	}
	f.Add("{password}{key}'{key", "a", "b")
	f.Fuzz(func(t *testing.T, cmd, value, password string) {
		script := func(value, password string) (string, []string) {
			return core.ServiceInfo{
				Env: map[string]string{"KEY": value, "PW": password}, PasswordEnv: "PW", ReadinessCmd: cmd,
			}.ReadinessScript()
		}
		got, env := script(value, password)
		if same, _ := script("", "x"); got != same {
			t.Errorf("the script depends on the values: %q, %q", got, same)
		}
		if len(env) > 2 {
			t.Errorf("%d variables for two placeholders", len(env))
		}
		for i, entry := range env {
			key, passed, _ := strings.Cut(entry, "=")
			if key != fmt.Sprint("MOAT_PLACEHOLDER_", i+1) || (passed != value && passed != password) || !strings.Contains(got, "${"+key+"}") {
				t.Errorf("%q in %q", entry, got)
			}
		}
		if len(env) == 0 && got != cmd {
			t.Errorf("without placeholders %q became %q", cmd, got)
		}
	})
}

func FuzzExtraCmd(f *testing.F) {
	f.Add("--requirepass {password}{key}", "{password}", "{key}")
	f.Fuzz(func(t *testing.T, arg, value, password string) {
		cfg := core.ServiceConfig{Env: map[string]string{"KEY": value, "PW": password}, PasswordEnv: "PW", ExtraCmd: []string{arg}}
		// The standard library's one-pass replacement, told the same.
		want := strings.NewReplacer("{key}", value, "{password}", password, "{pw}", password).Replace(arg)
		if got := cfg.Container().Cmd; len(got) != 1 || got[0] != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
