package memory

import (
	"strings"
	"testing"

	"mvdan.cc/sh/v3/syntax"
)

// FuzzPrepare: what the shell changes of a script leaves it a script.
func FuzzPrepare(f *testing.F) {
	for _, script := range []string{
		"echo $$ & wait $!", "(a; b) | c |& d", "x=$(a & b)", "x=$(<f)", "f() { (a) & }", "if a; then b & fi",
		"while read x; do (y); done <<E\n$(z)\nE", "cat <(x)", "case a in b) (c);; esac", "((x++)) & { a; } >f &", `eval "(a)"`,
	} {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script string) {
		file, err := syntax.NewParser().Parse(strings.NewReader(script), "")
		if err != nil || !isShells(file) || !isScript(printed(t, file)) { // the printer has errors of its own
			return
		}
		changed, err := prepare(script, "")
		if err != nil {
			return
		}
		if text := printed(t, changed); !isScript(text) {
			t.Errorf("%q became %q", script, text)
		}
	})
}

// isShells is false of the functions that no shell accepts, but the parser does.
func isShells(file *syntax.File) bool {
	accepted := true
	syntax.Walk(file, func(node syntax.Node) bool {
		if function, ok := node.(*syntax.FuncDecl); ok {
			_, isBlock := function.Body.Cmd.(*syntax.Block)
			accepted = accepted && isBlock && function.Name != nil
		}
		return true
	})
	return accepted
}

func printed(t *testing.T, file *syntax.File) string {
	var b strings.Builder
	if err := syntax.NewPrinter().Print(&b, file); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func isScript(text string) bool {
	_, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	return err == nil
}
