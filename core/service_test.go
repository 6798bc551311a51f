package core_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

const secret = "correct horse"

func postgres() core.ServiceConfig {
	return core.ServiceConfig{
		Name: "postgres", Version: "17", RunID: "0123abcd", Image: "postgres", Ports: map[string]int{"default": 5432},
		Env: map[string]string{"POSTGRES_PASSWORD": secret, "B": "2", "A": "1"}, PasswordEnv: "POSTGRES_PASSWORD",
		ExtraCmd: []string{"-c", "x={b}"}, ReadinessCmd: "pg_isready", NetworkID: "net",
	}
}

func TestServiceConfigValidate(t *testing.T) {
	long := strings.Repeat("a", 63)
	tests := []struct {
		field             string
		accepted, refused []any
	}{
		{"Name", []any{"a", "my-db2", long}, []any{"", "-a", "a-", "A", "a_b", "a.b", "a b", "a\n", long + "a"}},
		{"RunID", []any{"0", "0123abcd", "a_b.c-d"}, []any{"", "-a", "a b", "a/b", "a\n", "a\x00"}},
		{"Version", []any{"", "17", "_", "8.0.1-alpine_x", strings.Repeat("a", 128)}, []any{"-1", ".1", "1 2", "1:2", "a@b", "1\n", "+", strings.Repeat("a", 129)}},
		{"Image", []any{"redis", "localhost:5000/a/redis"}, []any{"", "redis:7", "a/redis:7", "redis@sha256:00", "-redis", "a b"}},
		{"Ports", []any{map[string]int(nil), map[string]int{"default": 1, "admin-2": 65535}}, []any{map[string]int{"default": 0}, map[string]int{"default": 65536}, map[string]int{"": 1}, map[string]int{"A": 1}}},
		{"Env", []any{map[string]string(nil), map[string]string{"a": "", "b": "=\n"}}, []any{map[string]string{"": secret}, map[string]string{"A=B": secret}, map[string]string{"A": secret + "\x00"}, map[string]string{"A\x00": secret}}},
		{"ExtraCmd", []any{[]string(nil), []string{"", "{b} x"}}, []any{[]string{"a\x00"}}},
		{"Pull", []any{core.PullPolicy(""), core.PullNever}, []any{core.PullPolicy("sometimes")}},
		{"Labels", []any{map[string]string(nil), map[string]string{"team": "blue"}}, []any{map[string]string{"": "x"}, map[string]string{"moat.role": "x"}}},
		{"ReadinessCmd", []any{"", "a\nb"}, []any{"a\x00"}},
		{"NetworkID", []any{"", "n", "0123abcd"}, []any{"none", "host", "bridge", "container:x", "-n", "a b"}},
		{"PasswordEnv", []any{"", "OTHER"}, nil},
	}
	tested := map[string]bool{}
	for _, test := range tests {
		tested[test.field] = true
		t.Run(test.field, func(t *testing.T) {
			check := func(value any) error {
				cfg := postgres()
				reflect.ValueOf(&cfg).Elem().FieldByName(test.field).Set(reflect.ValueOf(value))
				return cfg.Validate()
			}
			for _, value := range test.accepted {
				if err := check(value); err != nil {
					t.Errorf("%q: %v", value, err)
				}
			}
			for _, value := range test.refused {
				err := check(value)
				if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != test.field {
					t.Errorf("%q: %v, want %s refused", value, err, test.field)
				} else if strings.Contains(err.Error(), secret) {
					t.Errorf("the error contains a variable's value: %v", err)
				}
			}
		})
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[core.ServiceConfig]()) {
		if !tested[field.Name] {
			t.Errorf("ServiceConfig.%s is not tested", field.Name)
		}
	}
}

func TestServiceConfigValidateKeepsThePasswordThatACommandContains(t *testing.T) {
	cfg := postgres()
	cfg.Env["POSTGRES_PASSWORD"] = secret + "\x00"
	cfg.ExtraCmd = []string{"{password}"}
	if err := cfg.Validate(); core.FieldOf(err) != "Env" || strings.Contains(err.Error(), secret) {
		t.Error(err)
	}
}

func TestServiceContainer(t *testing.T) {
	cfg := postgres()
	want := core.Config{
		Name: "moat-postgres-0123abcd", Image: "postgres:17", Cmd: []string{"-c", "x=2"},
		Env:         []string{"A=1", "B=2", "POSTGRES_PASSWORD=" + secret},
		NetworkMode: "net", RunID: "0123abcd", Role: core.RoleService,
		Hostname: "postgres", NetworkAliases: []string{"postgres"},
	}
	if got := cfg.Container(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	cfg.Version = ""
	if got := cfg.Container().Image; got != "postgres:latest" {
		t.Errorf("without a version it runs %s", got)
	}
}

func TestServiceInfoIsApartFromItsConfig(t *testing.T) {
	cfg := postgres()
	info := cfg.Info("id", "192.0.2.1")
	cfg.Env["A"], cfg.Ports["default"] = "changed", 1
	want := core.ServiceInfo{
		ID: "id", Name: "postgres", Host: "192.0.2.1", Ports: map[string]int{"default": 5432},
		Env:          map[string]string{"POSTGRES_PASSWORD": secret, "B": "2", "A": "1"},
		ReadinessCmd: "pg_isready", PasswordEnv: "POSTGRES_PASSWORD",
	}
	if !reflect.DeepEqual(info, want) {
		t.Errorf("got  %#v\nwant %#v", info, want)
	}
}

func TestRedact(t *testing.T) {
	info := postgres().Info("", "")
	if got := info.Redact("no " + secret + ", no " + secret); strings.Contains(got, secret) || !strings.HasPrefix(got, "no ") {
		t.Error(got)
	}
	if got := (core.ServiceInfo{}).Redact("as it is"); got != "as it is" {
		t.Errorf("without a password: %s", got)
	}
}

func TestServicesArePrintedAndLoggedWithoutSecrets(t *testing.T) {
	cfg := postgres()
	info := cfg.Info("id", "db")
	for _, value := range []any{cfg, &cfg, []core.ServiceConfig{cfg}, struct{ C core.ServiceConfig }{cfg}, info, &info, map[string]core.ServiceInfo{"": info}} {
		shown := map[string]string{}
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%30v"} {
			shown[format] = fmt.Sprintf(format, value)
		}
		shown["an error"] = fmt.Errorf("%v", value).Error()
		if _, ok := value.(slog.LogValuer); ok { // what contains one is logged as the data it is
			shown["slog JSON"] = logged(slog.NewJSONHandler, value)
		}
		shown["slog text"] = logged(slog.NewTextHandler, value)
		for how, text := range shown {
			if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
				t.Errorf("%T with %s: %s", value, how, text)
			}
		}
		if text := shown["%+v"]; !strings.Contains(text, "postgres") || !strings.Contains(text, "POSTGRES_PASSWORD") {
			t.Errorf("nothing is left of %T: %s", value, text)
		}
	}
	if cfg.Env["POSTGRES_PASSWORD"] != secret || info.Env["POSTGRES_PASSWORD"] != secret {
		t.Error("printing has changed the value")
	}
	if text, err := json.Marshal(info); err != nil || !strings.Contains(string(text), secret) {
		t.Errorf("what is stored must be complete: %s, %v", text, err)
	}
}

func logged[H slog.Handler](handler func(io.Writer, *slog.HandlerOptions) H, value any) string {
	var b bytes.Buffer
	slog.New(handler(&b, nil)).Info("it", "service", value)
	return b.String()
}
