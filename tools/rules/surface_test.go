package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// surfaceLimit is how many exported names a reader of core's root package has to face:
// types, functions, methods, fields, constants and variables.
const surfaceLimit = 300

func TestCoreIsSmall(t *testing.T) {
	files, err := filepath.Glob("../../core/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no files of core:", err)
	}
	exported := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			exported += exportedNames(declaration)
		}
	}
	if exported == 0 || exported > surfaceLimit {
		t.Errorf("core exports %d names, want %d at most: let a package below core have some", exported, surfaceLimit)
	}
}

func exportedNames(declaration ast.Decl) (exported int) {
	count := func(names ...*ast.Ident) {
		for _, name := range names {
			if name.IsExported() {
				exported++
			}
		}
	}
	fields := func(list *ast.FieldList) {
		for _, field := range list.List {
			if count(field.Names...); len(field.Names) == 0 {
				exported++ // embedded
			}
		}
	}
	switch declaration := declaration.(type) {
	case *ast.FuncDecl:
		count(declaration.Name)
	case *ast.GenDecl:
		for _, spec := range declaration.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				count(spec.Names...)
			case *ast.TypeSpec:
				count(spec.Name)
				switch of := spec.Type.(type) {
				case *ast.StructType:
					fields(of.Fields)
				case *ast.InterfaceType:
					fields(of.Methods)
				}
			}
		}
	}
	return exported
}
