package core_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// complete has a valid value in every field with text, of each type that is validated.
var complete = []interface{ Validate() error }{
	&core.Config{
		Name: "web", Image: "alpine", Cmd: []string{"sh"}, WorkingDir: "/work", Env: []string{"A=b"}, User: "root",
		Mounts: []core.MountConfig{{Source: "/a", Target: "/b"}}, ExtraHosts: []string{"db:192.0.2.1"}, NetworkMode: "net",
		PortBindings: map[int]string{80: "127.0.0.1"}, CapAdd: []string{"NET_ADMIN"}, GroupAdd: []string{"docker"},
		DNS: []string{"192.0.2.1"}, Labels: map[string]string{"a": "b"}, RunID: "run", Role: "role",
		Ports: []core.PortMapping{{ContainerPort: 81, Protocol: "tcp", HostIP: "127.0.0.1"}}, Pull: core.PullMissing,
		Hostname: "host", NetworkAliases: []string{"alias"},
	},
	&optional.ExecOptions{Cmd: []string{"sh"}, Env: []string{"A=b"}, WorkingDir: "/work", User: "root"},
	&optional.NetworkConfig{Name: "net", Subnet: "192.0.2.0/26", RunID: "run", Labels: map[string]string{"a": "b"}},
	&core.BuildOptions{
		DNS: []string{"192.0.2.1"}, ContextFiles: map[string][]byte{"a/b": nil}, Args: map[string]string{"A": "b"},
		Labels: map[string]string{"a": "b"}, RunID: "run",
	},
	&core.SidecarConfig{
		Image: "alpine", Name: "web", Hostname: "host", NetworkID: "net", Cmd: []string{"sh"},
		Mounts: []core.MountConfig{{Source: "/a", Target: "/b"}}, RunID: "run", Env: []string{"A=b"}, Labels: map[string]string{"a": "b"},
		Pull: core.PullNever,
	},
	&core.ServiceConfig{
		Name: "db", Version: "1", Env: map[string]string{"A": "b"}, RunID: "run", Image: "alpine", Ports: map[string]int{"default": 1},
		PasswordEnv: "A", ExtraCmd: []string{"-x"}, ReadinessCmd: "true", NetworkID: "net", Labels: map[string]string{"a": "b"},
		Pull: core.PullNever,
	},
	&services.Definition{
		Name: "db", Aliases: []string{"database"}, Image: "alpine", Ports: map[string]int{"default": 1}, Env: map[string]string{"A": "b"},
		PasswordEnv: "A", User: "root", UserEnv: "B", DatabaseEnv: "C", ExtraCmd: []string{"-x"}, ReadinessCmd: "true", URLScheme: "db",
	},
	&optional.EventOptions{Container: "web"},
}

// TestTextThatCannotArriveUnchangedIsRefused finds a new field by itself.
func TestTextThatCannotArriveUnchangedIsRefused(t *testing.T) {
	for _, configuration := range complete {
		value := reflect.ValueOf(configuration).Elem()
		if err := configuration.Validate(); err != nil {
			t.Fatalf("%s: %v", value.Type(), err)
		}
		for i := range value.NumField() {
			field := value.Type().Field(i)
			if !field.IsExported() || field.Anonymous || !hasText(field.Type) {
				continue
			}
			tried := 0
			forEachText(value.Field(i), func(text string) []string {
				return []string{text + "\xff", "\xff" + text, text + "\xed\xa0\x80", text + "\x00"}
			}, func() {
				tried++
				err := configuration.Validate()
				if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != field.Name {
					t.Errorf("%s.%s: %+v is not refused: %v", value.Type(), field.Name, value.Field(i), err)
				}
			})
			if tried == 0 {
				t.Errorf("there is no text in the example of %s.%s", value.Type(), field.Name)
			}
		}
	}
}

func TestValuesOfVariablesAreNotQuoted(t *testing.T) {
	const secret = "secret\xff"
	for _, err := range []error{
		core.Config{Image: "a", Env: []string{"A=" + secret}}.Validate(),
		core.ServiceConfig{Name: "db", Image: "a", RunID: "run", Env: map[string]string{"A": secret}}.Validate(),
		core.BuildOptions{Args: map[string]string{"A": secret}}.Validate(),
	} {
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v tells the value", err)
		}
	}
}

func hasText(of reflect.Type) bool {
	switch of.Kind() {
	case reflect.String:
		return true
	case reflect.Slice:
		return hasText(of.Elem())
	case reflect.Map:
		return hasText(of.Key()) || hasText(of.Elem())
	case reflect.Struct:
		for i := range of.NumField() {
			if hasText(of.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// forEachText puts others in the place of each text in a value, one at a time, for try.
func forEachText(in reflect.Value, others func(string) []string, try func()) {
	switch in.Kind() {
	case reflect.String:
		text := in.String()
		for _, other := range others(text) {
			in.SetString(other)
			try()
		}
		in.SetString(text)
	case reflect.Slice:
		for i := range in.Len() {
			forEachText(in.Index(i), others, try)
		}
	case reflect.Struct:
		for i := range in.NumField() {
			forEachText(in.Field(i), others, try)
		}
	case reflect.Map:
		for _, key := range in.MapKeys() {
			value := in.MapIndex(key)
			other := reflect.New(value.Type()).Elem()
			other.Set(value)
			forEachText(other, others, func() { in.SetMapIndex(key, other); try() })
			in.SetMapIndex(key, reflect.Value{})
			other = reflect.New(key.Type()).Elem()
			other.Set(key)
			forEachText(other, others, func() {
				in.SetMapIndex(other, value)
				try()
				in.SetMapIndex(other, reflect.Value{})
			})
			in.SetMapIndex(key, value)
		}
	}
}
