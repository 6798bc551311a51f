package driver

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

// TestUnimplemented calls every method of a runtime. Those with an object name it.
func TestUnimplemented(t *testing.T) {
	ops := map[string]string{}
	rt := reflect.ValueOf(struct{ Unimplemented }{Unimplemented{"mine"}})
	roles := reflect.TypeFor[core.Runtime]()
	for i := range roles.NumMethod() {
		name := roles.Method(i).Name
		method := rt.MethodByName(name)
		var args []reflect.Value
		object := ""
		for in := range method.Type().Ins() {
			switch arg := reflect.Zero(in); {
			case in == reflect.TypeFor[core.Config]():
				args, object = append(args, reflect.ValueOf(core.Config{Name: "object"})), "object"
			case in.Kind() == reflect.String && object == "":
				args, object = append(args, reflect.ValueOf("object")), "object"
			default:
				args = append(args, arg)
			}
		}
		results := method.Call(args)
		last := results[len(results)-1]
		switch {
		case name == "Close":
			if !last.IsNil() {
				t.Errorf("Close: %v", last)
			}
		case strings.HasSuffix(name, "Manager"):
			if !last.IsNil() {
				t.Errorf("%s returned a manager", name)
			}
		case last.Type() == reflect.TypeFor[error]():
			err, _ := last.Interface().(error)
			failure, ok := errors.AsType[*core.Error](err)
			if !ok || !errors.Is(err, core.ErrUnsupported) || failure.Runtime != "mine" || failure.Object != object || failure.Op == "" {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if other := ops[failure.Op]; other != "" {
				t.Errorf("%s and %s are both told as %q", name, other, failure.Op)
			}
			ops[failure.Op] = name
		}
	}
	if got := (Unimplemented{"mine"}).Type(); got != "mine" || len(ops) == 0 {
		t.Errorf("its type is %q; %d methods failed", got, len(ops))
	}
}
