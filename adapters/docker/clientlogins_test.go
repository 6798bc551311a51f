package docker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moatproject/moat/core"
)

// configured is an environment with the Docker client's config.json, and other variables.
func configured(t *testing.T, config string, variables ...string) Environment {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return Environment{Getenv: func(name string) string {
		for i := 0; i < len(variables); i += 2 {
			if variables[i] == name {
				return variables[i+1]
			}
		}
		if name == "DOCKER_CONFIG" {
			return folder
		}
		return ""
	}}
}

func basic(login string) string { return base64.StdEncoding.EncodeToString([]byte(login)) }

func TestClientLogins(t *testing.T) {
	user := Login{Username: "user", Password: "pass:word"}
	auth := fmt.Sprintf(`{"auth": %q}`, basic("user:pass:word"))
	for name, test := range map[string]struct {
		config    string
		variables []string
		registry  string
		want      Login
	}{
		"user and password":      {config: `{"auths": {"example.org": ` + auth + `}}`, registry: "example.org", want: user},
		"in two fields":          {config: `{"auths": {"example.org": {"username": "user", "password": "pass:word"}}}`, registry: "example.org", want: user},
		"with a port":            {config: `{"auths": {"example.org:5000": ` + auth + `}}`, registry: "example.org:5000", want: user},
		"with another port":      {config: `{"auths": {"example.org:5000": ` + auth + `}}`, registry: "example.org"},
		"with a scheme":          {config: `{"auths": {"https://example.org": ` + auth + `}}`, registry: "example.org", want: user},
		"with a path":            {config: `{"auths": {"https://example.org:5000/v2/": ` + auth + `}}`, registry: "example.org:5000", want: user},
		"with a path alone":      {config: `{"auths": {"example.org/v1/": ` + auth + `}}`, registry: "example.org", want: user},
		"the exact one first":    {config: `{"auths": {"https://example.org": {"username": "other"}, "example.org": ` + auth + `}}`, registry: "example.org", want: user},
		"the hub":                {config: `{"auths": {"https://index.docker.io/v1/": ` + auth + `}}`, registry: "docker.io", want: user},
		"another than the hub":   {config: `{"auths": {"https://index.docker.io/v1/": ` + auth + `}}`, registry: "example.org"},
		"an identity token":      {config: `{"auths": {"example.org": {"identitytoken": "token"}}}`, registry: "example.org", want: Login{IdentityToken: "token"}},
		"with a user beside":     {config: `{"auths": {"example.org": {"auth": "` + basic("00000000-0000-0000-0000-000000000000:") + `", "identitytoken": "token"}}}`, registry: "example.org", want: Login{Username: "00000000-0000-0000-0000-000000000000", IdentityToken: "token"}},
		"a registry token":       {config: `{"auths": {"example.org": {"registrytoken": "token"}}}`, registry: "example.org", want: Login{RegistryToken: "token"}},
		"an empty entry":         {config: `{"auths": {"example.org": {}}}`, registry: "example.org"},
		"nothing":                {config: `{}`, registry: "example.org"},
		"an empty file":          {config: ``, registry: "example.org"},
		"other settings":         {config: `{"HttpHeaders": {"X": "y"}, "unknown": [1], "auths": {"example.org": ` + auth + `}}`, registry: "example.org", want: user},
		"the variable":           {variables: []string{"DOCKER_AUTH_CONFIG", `{"auths": {"example.org": ` + auth + `}}`}, registry: "example.org", want: user},
		"the variable first":     {config: `{"auths": {"example.org": {"username": "other"}}}`, variables: []string{"DOCKER_AUTH_CONFIG", `{"auths": {"example.org": ` + auth + `}}`}, registry: "example.org", want: user},
		"the variable of others": {config: `{"auths": {"example.org": ` + auth + `}}`, variables: []string{"DOCKER_AUTH_CONFIG", `{"auths": {"other.example": {"auth": "` + basic("a:b") + `"}}}`}, registry: "example.org", want: user},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := configured(t, test.config, test.variables...).Logins(t.Context(), test.registry); err != nil || got != test.want {
				t.Errorf("got %+v, %v, want %+v", shown(got), err, shown(test.want))
			}
		})
	}
}

// shown is a login that prints.
func shown(l Login) any {
	type visible Login
	return visible(l)
}

func TestClientLoginsAtHome(t *testing.T) {
	home := t.TempDir()
	env := Environment{Getenv: func(string) string { return "" }, Home: home}
	if got, err := env.Logins(t.Context(), "example.org"); err != nil || got != (Login{}) {
		t.Errorf("without a file: %+v, %v", shown(got), err)
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(home, ".docker"), 0o700),
		os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte(`{"auths": {"example.org": {"username": "user"}}}`), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := env.Logins(t.Context(), "example.org"); err != nil || got.Username != "user" {
		t.Errorf("got %+v, %v", shown(got), err)
	}
}

func TestClientLoginsThatCannotBeRead(t *testing.T) {
	for name, config := range map[string]string{
		"no JSON":    `{"auths": {"example.org": {"auth": "` + secret,
		"base64":     `{"auths": {"example.org": {"auth": "` + secret + `"}}}`,
		"no colon":   `{"auths": {"example.org": {"auth": "` + basic(secret) + `"}}}`,
		"a number":   `{"auths": {"example.org": {"password": 3735928559}}}`,
		"no object":  `["` + secret + `"]`,
		"not a file": "",
	} {
		t.Run(name, func(t *testing.T) {
			env := configured(t, config)
			if name == "not a file" {
				path := filepath.Join(env.Getenv("DOCKER_CONFIG"), "config.json")
				if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
					t.Fatal(err)
				}
			}
			for where, env := range map[string]Environment{"config.json": env, "DOCKER_AUTH_CONFIG": configured(t, "", "DOCKER_AUTH_CONFIG", config)} {
				if config == "" && where != "config.json" {
					continue
				}
				_, err := env.Logins(t.Context(), "example.org")
				failed, ok := errors.AsType[*core.Error](err)
				if !ok || !errors.Is(err, core.ErrInvalidConfig) || failed.Object != "example.org" || failed.Remedy == "" || !strings.Contains(err.Error(), where) {
					t.Errorf("%s: got %v", where, err)
				}
				for _, form := range []string{"s3cr3t", basic(secret), "3735928559"} {
					if strings.Contains(fmt.Sprint(err), form) {
						t.Errorf("%s: %v has a secret", where, err)
					}
				}
			}
		})
	}
}

// putHelpers puts programs of this name and these scripts where the process finds them.
func putHelpers(t *testing.T, scripts map[string]string) {
	t.Helper()
	folder := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(folder, "docker-credential-"+name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestHelperPrograms(t *testing.T) {
	const says = "#!/bin/sh\nread server\n[ \"$1\" = get ] || exit 9\n"
	putHelpers(t, map[string]string{
		"echo":     says + `echo "{\"ServerURL\": \"$server\", \"Username\": \"for $server\", \"Secret\": \"pass\"}"`,
		"other":    says + `echo "{\"Username\": \"of other\", \"Secret\": \"pass\"}"`,
		"token":    says + `echo '{"Username": "<token>", "Secret": "identity"}'`,
		"none":     says + `echo "credentials not found in native keychain"; exit 1`,
		"none-err": says + `echo "Error: Credentials not found" >&2; exit 2`,
		"empty":    says + `echo '{"ServerURL": "", "Username": "", "Secret": ""}'`,
		"noisy":    says + `echo warning >&2; echo '{"Username": "noisy", "Secret": "pass"}'`,
	})
	for name, test := range map[string]struct {
		config, registry string
		want             Login
	}{
		"of all":             {`{"credsStore": "echo"}`, "example.org:5000", Login{Username: "for example.org:5000", Password: "pass"}},
		"of the hub":         {`{"credsStore": "echo"}`, "docker.io", Login{Username: "for https://index.docker.io/v1/", Password: "pass"}},
		"of a registry":      {`{"credsStore": "echo", "credHelpers": {"example.org": "other"}}`, "example.org", Login{Username: "of other", Password: "pass"}},
		"of another":         {`{"credsStore": "echo", "credHelpers": {"other.example": "other"}}`, "example.org", Login{Username: "for example.org", Password: "pass"}},
		"not of all":         {`{"credHelpers": {"other.example": "other"}, "auths": {"example.org": {"username": "user"}}}`, "example.org", Login{Username: "user"}},
		"before the file":    {`{"credsStore": "echo", "auths": {"example.org": {"username": "user"}}}`, "example.org", Login{Username: "for example.org", Password: "pass"}},
		"switched off":       {`{"credsStore": "echo", "credHelpers": {"example.org": ""}, "auths": {"example.org": {"username": "user"}}}`, "example.org", Login{Username: "user"}},
		"an identity token":  {`{"credsStore": "token"}`, "example.org", Login{IdentityToken: "identity"}},
		"none":               {`{"credsStore": "none"}`, "example.org", Login{}},
		"none on stderr":     {`{"credsStore": "none-err"}`, "example.org", Login{}},
		"an empty one":       {`{"credsStore": "empty"}`, "example.org", Login{}},
		"with words":         {`{"credsStore": "noisy"}`, "example.org", Login{Username: "noisy", Password: "pass"}},
		"the file's bearer":  {`{"credsStore": "none", "auths": {"example.org": {"registrytoken": "bearer"}}}`, "example.org", Login{RegistryToken: "bearer"}},
		"not the file's own": {`{"credsStore": "none", "auths": {"example.org": {"username": "user"}}}`, "example.org", Login{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := configured(t, test.config).Logins(t.Context(), test.registry); err != nil || got != test.want {
				t.Errorf("got %+v, %v, want %+v", shown(got), err, shown(test.want))
			}
		})
	}
}

func TestHelperProgramsThatFail(t *testing.T) {
	const tells = "#!/bin/sh\necho '" + secret + "'; echo 'error: " + secret + "' >&2\n"
	putHelpers(t, map[string]string{
		"failing": tells + "exit 1",
		"talking": tells,
		"killed":  tells + "kill -9 $$",
		"strange": tells + "echo '{'; exit 0",
		"foreign": "\x7fELF " + secret,
	})
	for name, test := range map[string]struct {
		class  error
		remedy string
	}{
		"failing": {core.ErrUnavailable, "echo example.org | docker-credential-failing get"},
		"talking": {core.ErrUnavailable, "echo example.org | docker-credential-talking get"},
		"killed":  {core.ErrUnavailable, "echo example.org | docker-credential-killed get"},
		"strange": {core.ErrUnavailable, "echo example.org | docker-credential-strange get"},
		"missing": {core.ErrInvalidConfig, "PATH"},
		"foreign": {core.ErrUnavailable, "echo example.org | docker-credential-foreign get"},
		"/bin/no": {core.ErrInvalidConfig, "PATH"},
	} {
		_, err := configured(t, fmt.Sprintf(`{"credsStore": %q}`, name)).Logins(t.Context(), "example.org")
		failed, ok := errors.AsType[*core.Error](err)
		if !ok || !errors.Is(failed.Class, test.class) || !strings.Contains(err.Error(), "docker-credential-"+name) || !strings.Contains(failed.Remedy, test.remedy) {
			t.Errorf("%s: got %v, want %v", name, err, test.class)
		}
		if strings.Contains(fmt.Sprint(err), "s3cr3t") {
			t.Errorf("%s: %v has a secret", name, err)
		}
	}
}

// A helper that asks a person, or has a child that keeps its output open, is not waited for.
func TestHelperProgramsObeyTheContext(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "running")
	putHelpers(t, map[string]string{"hanging": "#!/bin/sh\nsleep 60 &\necho >" + fifo + "\nwait\n"})
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	env := configured(t, `{"credsStore": "hanging"}`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := begin(func() (Login, error) { return env.Logins(ctx, "example.org") })
	if _, err := os.ReadFile(fifo); err != nil { // it runs
		t.Fatal(err)
	}
	cancel()
	if _, err := asked.result(t); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestClientLoginsWriteNothing(t *testing.T) {
	putHelpers(t, map[string]string{"token": "#!/bin/sh\necho '{\"Username\": \"<token>\", \"Secret\": \"identity\"}'"})
	env := configured(t, `{"credsStore": "token", "auths": {"example.org": {}}}`)
	folder := env.Getenv("DOCKER_CONFIG")
	before, err := os.Stat(filepath.Join(folder, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := env.Logins(t.Context(), "example.org"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(folder)
	after, statErr := os.Stat(filepath.Join(folder, "config.json"))
	if err := errors.Join(err, statErr); err != nil || len(entries) != 1 || !after.ModTime().Equal(before.ModTime()) || !os.SameFile(before, after) {
		t.Errorf("%v: there are %v, written %v and then %v", err, entries, before.ModTime(), after.ModTime())
	}
}
