package services_test

import (
	"errors"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/services"
)

// cache is a definition of a user's.
func cache() services.Definition {
	return services.Definition{
		Name: "my-cache", Aliases: []string{"mc"}, Image: "registry:5000/cache", Ports: map[string]int{"default": 1, "admin-ui": 2},
		Env: map[string]string{"A": "1"}, PasswordEnv: "PW", User: "u", UserEnv: "U", DatabaseEnv: "D", ExtraCmd: []string{"x"},
		ReadinessCmd: "true", URLScheme: "cache",
	}
}

func TestDefaultServices(t *testing.T) {
	known := services.Default()
	var names []string
	for _, d := range known {
		names = append(names, d.Name)
		if err := d.Validate(); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
		if _, err := known.With(d); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
	if !slices.Equal(names, []string{"mariadb", "mysql", "postgres", "redis"}) {
		t.Error(names)
	}
}

// TestDefaultServicesBecomeReady runs the readiness commands with programs that behave
// as the images' do, and note how they were called.
func TestDefaultServicesBecomeReady(t *testing.T) {
	programs := map[string]string{
		"pg_isready":    `echo "$@"; exit "$STATUS"`,
		"mysqladmin":    `echo "$MYSQL_PWD $@"; exit "$STATUS"`,
		"mariadb-admin": `echo "$MYSQL_PWD $@"; exit "$STATUS"`,
		"redis-cli":     `[ "$*" = "-h 127.0.0.1 ping" ] || exit 9; [ "$REDISCLI_AUTH" = "$EXPECT" ] && echo PONG || echo NOAUTH`,
	}
	bin := t.TempDir()
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	password := "a 'b' $(c)"
	tests := []struct {
		service, status, expect string
		want                    string // empty: not ready
	}{
		{"postgres", "0", "", "-h 127.0.0.1 -U postgres -d postgres\n"},
		{"postgres", "2", "", ""},
		{"mysql", "0", "", password + " ping -h 127.0.0.1 -u root\n"},
		{"mysql", "1", "", ""},
		{"mariadb", "0", "", password + " ping -h 127.0.0.1 -u root\n"},
		{"mariadb", "1", "", ""},
		{"redis", "", password, "PONG\n"},
		{"redis", "", "another", ""},
	}
	for _, test := range tests {
		t.Run(test.service+test.status+test.expect, func(t *testing.T) {
			d, _ := services.Default().Lookup(test.service)
			cfg, err := d.Config("", "0123abcd", map[string]string{d.PasswordEnv: password}, nil)
			if err != nil {
				t.Fatal(err)
			}
			script, env := cfg.Info("", "").ReadinessScript()
			cmd := exec.Command("/bin/sh", "-c", script)
			cmd.Env = slices.Concat(env, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "STATUS=" + test.status, "EXPECT=" + test.expect})
			out, err := cmd.CombinedOutput()
			if ready := test.want != ""; (err == nil) != ready || len(out) == 0 || ready && string(out) != test.want {
				t.Errorf("got %q, %v, want %q", out, err, test.want)
			}
		})
	}
}

func TestServicesWith(t *testing.T) {
	before := services.Default()
	known, err := before.With(cache())
	if err != nil {
		t.Fatal(err)
	}
	newer := cache()
	newer.Image, newer.Aliases = "newer", []string{"cache"}
	known, err = known.With(newer)
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := known.Lookup("my-cache"); !ok || d.Image != "newer" || len(known) != len(before)+1 {
		t.Errorf("not replaced: %+v", known)
	}
	if d, ok := known.Lookup("cache"); !ok || d.Name != "my-cache" {
		t.Error("not found by its alias")
	}
	for _, gone := range []string{"mc", "", "nothing"} {
		if d, ok := known.Lookup(gone); ok {
			t.Errorf("%q is %s", gone, d.Name)
		}
	}
	if _, ok := before.Lookup("my-cache"); ok || len(before) != 4 {
		t.Error("the known that it began with have changed")
	}

	for field, d := range map[string]services.Definition{
		"Name":    {Name: "postgresql", Image: "x"},
		"Aliases": {Name: "x", Image: "x", Aliases: []string{"redis"}},
		"Image":   {Name: "x"},
	} {
		if got, err := known.With(d); core.FieldOf(err) != field || got != nil {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestServiceDefinitionValidate(t *testing.T) {
	if err := cache().Validate(); err != nil {
		t.Fatal(err)
	}
	if err := (services.Definition{Name: "x", Image: "x"}).Validate(); err != nil {
		t.Error(err)
	}
	tests := []struct {
		field string
		spoil func(*services.Definition)
	}{
		{"Name", func(d *services.Definition) { d.Name = "A" }},
		{"Aliases", func(d *services.Definition) { d.Aliases = []string{"a", "a:b"} }},
		{"Image", func(d *services.Definition) { d.Image = "a:1" }},
		{"Ports", func(d *services.Definition) { d.Ports = map[string]int{"default": -1} }},
		{"Ports", func(d *services.Definition) { d.Ports = map[string]int{"other": 1} }},
		{"Env", func(d *services.Definition) { d.Env = map[string]string{"": "x"} }},
		{"PasswordEnv", func(d *services.Definition) { d.PasswordEnv = "A=B" }},
		{"UserEnv", func(d *services.Definition) { d.UserEnv = "1A" }},
		{"DatabaseEnv", func(d *services.Definition) { d.DatabaseEnv = "A B" }},
		{"User", func(d *services.Definition) { d.User = "\x00" }},
		{"ExtraCmd", func(d *services.Definition) { d.ExtraCmd = []string{"\x00"} }},
		{"ReadinessCmd", func(d *services.Definition) { d.ReadinessCmd = "\x00" }},
		{"URLScheme", func(d *services.Definition) { d.URLScheme = "a:" }},
	}
	for _, test := range tests {
		d := cache()
		test.spoil(&d)
		if err := d.Validate(); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != test.field {
			t.Errorf("%v, want %s refused", err, test.field)
		}
	}
}

func TestParseService(t *testing.T) {
	known := services.Default()
	tests := []struct{ spec, name, version string }{
		{"postgres", "postgres", ""},
		{"postgres:17", "postgres", "17"},
		{"postgresql:17.2-alpine", "postgres", "17.2-alpine"},
		{"redis:_x", "redis", "_x"},
	}
	for _, test := range tests {
		d, version, err := known.Parse(test.spec)
		if d.Name != test.name || version != test.version || err != nil {
			t.Errorf("%q: got %q, %q, %v", test.spec, d.Name, version, err)
		}
	}
	for _, spec := range []string{"", ":17", "oracle", "Postgres", " postgres", "postgres@sha256:00"} {
		_, _, err := known.Parse(spec)
		if core.FieldOf(err) != "service" || !strings.Contains(err.Error(), "mariadb, mysql, postgres, redis") {
			t.Errorf("%q: %v", spec, err)
		}
	}
	for _, spec := range []string{"postgres:", "postgres: 17", "postgres:-1", "postgres:17:1", "postgres:1@sha256:00", "postgres:1\n", "postgres:" + strings.Repeat("1", 129)} {
		d, version, err := known.Parse(spec)
		if core.FieldOf(err) != "service" || !errors.Is(err, core.ErrInvalidConfig) || version != "" || d.Name != "" {
			t.Errorf("%q: %v, %q, %v", spec, d, version, err)
		}
	}
}

func TestServiceDefinitionConfig(t *testing.T) {
	d := cache()
	random := "0123456789abcdef and more"
	cfg, err := d.Config("7", "0123abcd", map[string]string{"B": "2"}, strings.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	if want := (map[string]string{"A": "1", "B": "2", "PW": "30313233343536373839616263646566"}); !maps.Equal(cfg.Env, want) {
		t.Errorf("got  %q\nwant %q", cfg.Env, want)
	}
	if cfg.Name != "my-cache" || cfg.Version != "7" || cfg.RunID != "0123abcd" || cfg.Image != d.Image || !maps.Equal(cfg.Ports, d.Ports) ||
		cfg.PasswordEnv != "PW" || !slices.Equal(cfg.ExtraCmd, d.ExtraCmd) || cfg.ReadinessCmd != "true" || cfg.NetworkID != "" {
		t.Errorf("%+v", cfg)
	}
	cfg.Ports["default"], cfg.ExtraCmd[0] = 9, "changed"
	if d.Ports["default"] != 1 || d.ExtraCmd[0] != "x" || len(d.Env) != 1 {
		t.Error("the definition shares what its configuration may change")
	}

	// The user's come first, and an empty password is none.
	cfg, err = d.Config("", "1", map[string]string{"A": "mine", "PW": "mine"}, nil)
	if err != nil || cfg.Env["A"] != "mine" || cfg.Env["PW"] != "mine" {
		t.Errorf("%+v, %v", cfg, err)
	}
	cfg, err = d.Config("", "1", map[string]string{"PW": ""}, strings.NewReader(random))
	if err != nil || cfg.Env["PW"] == "" {
		t.Errorf("%+v, %v", cfg, err)
	}
	d.PasswordEnv = ""
	if cfg, err = d.Config("", "1", nil, nil); err != nil || len(cfg.Env) != 1 {
		t.Errorf("a service without a password: %+v, %v", cfg, err)
	}
}

func TestServiceDefinitionConfigErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		random io.Reader
		want   error
	}{
		{iotest.ErrReader(broken), broken},
		{strings.NewReader(""), io.EOF},
		{strings.NewReader("fifteen bytes.."), io.ErrUnexpectedEOF},
	} {
		cfg, err := cache().Config("", "1", nil, test.random)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), "my-cache") || cfg.Name != "" {
			t.Errorf("%v, %v", cfg, err)
		}
	}
	for field, call := range map[string]struct {
		version, runID string
		env            map[string]string
	}{
		"Version": {"-", "1", nil},
		"RunID":   {"", "", nil},
		"Env":     {"", "1", map[string]string{"A=B": ""}},
	} {
		if _, err := cache().Config(call.version, call.runID, call.env, strings.NewReader(strings.Repeat("x", 16))); core.FieldOf(err) != field {
			t.Errorf("%v, want %s refused", err, field)
		}
	}
}

func TestMainEnv(t *testing.T) {
	tests := []struct {
		service string
		env     map[string]string
		host    string
		want    []string
	}{
		{"postgres", nil, "postgres", []string{
			"MOAT_POSTGRES_HOST=postgres", "MOAT_POSTGRES_PORT=5432", "MOAT_POSTGRES_USER=postgres", "MOAT_POSTGRES_DB=postgres",
			"MOAT_POSTGRES_PASSWORD=pw", "MOAT_POSTGRES_URL=postgres://postgres:pw@postgres:5432/postgres",
		}},
		{"postgres", map[string]string{"POSTGRES_USER": "al ice", "POSTGRES_DB": "a/b?c"}, "2001:db8::1", []string{
			"MOAT_POSTGRES_HOST=2001:db8::1", "MOAT_POSTGRES_PORT=5432", "MOAT_POSTGRES_USER=al ice", "MOAT_POSTGRES_DB=a/b?c",
			"MOAT_POSTGRES_PASSWORD=pw", "MOAT_POSTGRES_URL=postgres://al%20ice:pw@[2001:db8::1]:5432/a%2Fb%3Fc",
		}},
		{"mysql", map[string]string{"MYSQL_USER": "app"}, "mysql", []string{
			"MOAT_MYSQL_HOST=mysql", "MOAT_MYSQL_PORT=3306", "MOAT_MYSQL_USER=root", "MOAT_MYSQL_DB=moat",
			"MOAT_MYSQL_PASSWORD=pw", "MOAT_MYSQL_URL=mysql://root:pw@mysql:3306/moat",
		}},
		{"mariadb", map[string]string{"MARIADB_DATABASE": ""}, "192.0.2.1", []string{
			"MOAT_MARIADB_HOST=192.0.2.1", "MOAT_MARIADB_PORT=3306", "MOAT_MARIADB_USER=root",
			"MOAT_MARIADB_PASSWORD=pw", "MOAT_MARIADB_URL=mysql://root:pw@192.0.2.1:3306",
		}},
		{"redis", nil, "redis", []string{
			"MOAT_REDIS_HOST=redis", "MOAT_REDIS_PORT=6379", "MOAT_REDIS_USER=default", "MOAT_REDIS_PASSWORD=pw", "MOAT_REDIS_URL=redis://default:pw@redis:6379",
		}},
		{"my-cache", nil, "h", []string{
			"MOAT_MY_CACHE_HOST=h", "MOAT_MY_CACHE_PORT_ADMIN_UI=2", "MOAT_MY_CACHE_PORT=1", "MOAT_MY_CACHE_USER=u",
			"MOAT_MY_CACHE_PASSWORD=pw", "MOAT_MY_CACHE_URL=cache://u:pw@h:1",
		}},
	}
	known, err := services.Default().With(cache())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		d, _ := known.Lookup(test.service)
		env := map[string]string{d.PasswordEnv: "pw"}
		maps.Copy(env, test.env)
		cfg, err := d.Config("", "1", env, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.MainEnv(cfg.Info("id", test.host)); !slices.Equal(got, test.want) {
			t.Errorf("%s\ngot  %q\nwant %q", test.service, got, test.want)
		}
	}

	d := cache()
	d.PasswordEnv = ""
	info := core.ServiceInfo{Host: "h", Ports: map[string]int{"default": 1}}
	if got := d.MainEnv(info); !slices.Contains(got, "MOAT_MY_CACHE_URL=cache://u@h:1") {
		t.Errorf("without a password: %q", got)
	}
	d.User = ""
	if got := d.MainEnv(info); !slices.Contains(got, "MOAT_MY_CACHE_URL=cache://h:1") {
		t.Errorf("without a user: %q", got)
	}
	d.URLScheme = ""
	if got := d.MainEnv(info); !slices.Equal(got, []string{"MOAT_MY_CACHE_HOST=h", "MOAT_MY_CACHE_PORT=1"}) {
		t.Errorf("without a URL: %q", got)
	}
}

func FuzzServiceURL(f *testing.F) {
	f.Add("postgres", "p@ss:/?#[]%", "d b/é")
	f.Add("", "+&=;$", "?x=y")
	f.Add("a:b@c", "", ".")
	f.Fuzz(func(t *testing.T, user, password, database string) {
		d, _ := services.Default().Lookup("postgres")
		env := d.MainEnv(core.ServiceInfo{
			Host: "db", Ports: d.Ports, PasswordEnv: "PW", Env: map[string]string{"POSTGRES_USER": user, "PW": password, "POSTGRES_DB": database},
		})
		text := strings.TrimPrefix(env[len(env)-1], "MOAT_POSTGRES_URL=")
		address, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := address.User.Password()
		if address.User.Username() != user || got != password || strings.TrimPrefix(address.Path, "/") != database || address.Host != "db:5432" || address.RawQuery+address.Fragment != "" {
			t.Errorf("%q, %q and %q became %s", user, password, database, text)
		}
		if strings.ContainsAny(text, "+&=;$?#!*'\\\"` \n") || strings.Count(text, "@") > 1 {
			t.Errorf("not every parser understands %s", text)
		}
	})
}
