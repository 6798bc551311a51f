package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestRemedies reads each remedy that the code has as text: it becomes a sentence of its
// own behind an error, so it begins as one, and whoever joins them ends it.
func TestRemedies(t *testing.T) {
	root := filepath.Join("..", "..")
	repository, err := scan(root)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range repository.files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, filepath.Join(root, file), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			remedy := remedyOf(node)
			if remedy == nil {
				return true
			}
			first, last := textAt(remedy, true), textAt(remedy, false)
			if first != "" {
				found++
				if begin, _ := utf8.DecodeRuneInString(first); !unicode.IsUpper(begin) && begin != '`' {
					t.Errorf("%s: the remedy %q does not begin as a sentence", files.Position(node.Pos()), first)
				}
			}
			if last != "" && strings.ContainsAny(last[len(last)-1:], ".?!:;, \n") {
				t.Errorf("%s: the remedy %q ends with punctuation", files.Position(node.Pos()), last)
			}
			return true
		})
	}
	if found == 0 {
		t.Error("there is no remedy at all")
	}
}

// remedyOf returns the remedy that a node sets, or nil.
func remedyOf(node ast.Node) ast.Expr {
	switch node := node.(type) {
	case *ast.KeyValueExpr:
		if key, ok := node.Key.(*ast.Ident); ok && strings.EqualFold(key.Name, "remedy") {
			return node.Value
		}
	case *ast.AssignStmt:
		for i, left := range node.Lhs {
			if field, ok := left.(*ast.SelectorExpr); ok && field.Sel.Name == "Remedy" && len(node.Lhs) == len(node.Rhs) {
				return node.Rhs[i]
			}
		}
	case *ast.CallExpr: // the adapters' call.wrong(class, field, why, remedy)
		if method, ok := node.Fun.(*ast.SelectorExpr); ok && method.Sel.Name == "wrong" && len(node.Args) == 4 {
			return node.Args[3]
		}
	}
	return nil
}

// textAt returns the literal at the beginning or the end of an expression, or "".
func textAt(expression ast.Expr, beginning bool) string {
	for {
		joined, ok := expression.(*ast.BinaryExpr)
		if !ok {
			break
		}
		if expression = joined.Y; beginning {
			expression = joined.X
		}
	}
	literal, ok := expression.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return ""
	}
	text, _ := strconv.Unquote(literal.Value)
	return text
}
