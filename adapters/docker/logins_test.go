package docker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/adapters/docker/internal/builder"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// secret is found wherever it is not to be.
const secret = "s3cr3t/of+a=login"

// withLogins gives a runtime fixed logins, and counts how often each is asked for.
func withLogins(known map[string]Login, asked map[string]int) func(*Options) {
	return func(options *Options) {
		options.Logins = func(_ context.Context, registry string) (Login, error) {
			if asked != nil {
				asked[registry]++
			}
			return known[registry], nil
		}
	}
}

// decoded returns what a header of the engine's holds.
func decoded[T any](t *testing.T, header string) (value T) {
	t.Helper()
	content, err := base64.URLEncoding.DecodeString(header)
	if err == nil && header != "" {
		err = json.Unmarshal(content, &value)
	}
	if err != nil {
		t.Errorf("the header %q: %v", header, err)
	}
	return value
}

func TestPullsShowTheLoginOfTheirRegistry(t *testing.T) {
	logins := map[string]Login{
		"docker.io":        {Username: "hubber", Password: "of the hub"},
		"example.org":      {Username: "user", Password: secret},
		"example.org:5000": {IdentityToken: "identity"},
		"[::1]:5000":       {RegistryToken: "bearer"},
	}
	for ref, want := range map[string]registry.AuthConfig{
		"alpine":                        {Username: "hubber", Password: "of the hub"},
		"library/alpine:3":              {Username: "hubber", Password: "of the hub"},
		"docker.io/alpine":              {Username: "hubber", Password: "of the hub"},
		"index.docker.io/a/b":           {Username: "hubber", Password: "of the hub"},
		"example.org/a/b:1":             {Username: "user", Password: secret},
		"example.org:5000/a":            {IdentityToken: "identity"},
		"[::1]:5000/a":                  {RegistryToken: "bearer"},
		"example.org:5001/a":            {},
		"other.example/example.org/a":   {},
		"localhost/a":                   {},
		"Not A Reference":               {},
		"example.org/a@sha256:" + hex64: {Username: "user", Password: secret},
	} {
		engine := startFake(t)
		var header string
		engine.on("POST /images/create", func(w http.ResponseWriter, r *http.Request) { header = r.Header.Get("X-Registry-Auth") })
		_ = engine.runtime(t, withLogins(logins, nil)).PullImage(t.Context(), ref, nil)
		if got := decoded[registry.AuthConfig](t, header); got != want {
			t.Errorf("a pull of %s shows %+v, want %+v", ref, got, want)
		}
	}
}

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestCreatingPullsWithTheLogin(t *testing.T) {
	for name, create := range map[string]func(*Runtime) error{
		"a container": func(r *Runtime) error {
			_, err := r.CreateContainer(t.Context(), core.Config{Image: "example.org/a"})
			return err
		},
		"always": func(r *Runtime) error {
			_, err := r.CreateContainer(t.Context(), core.Config{Image: "example.org/a", Pull: core.PullAlways})
			return err
		},
		"a sidecar": func(r *Runtime) error {
			_, err := r.SidecarManager().StartSidecar(t.Context(), core.SidecarConfig{Image: "example.org/a", Name: "sidecar", NetworkID: "n"})
			return err
		},
		"a service": func(r *Runtime) error {
			_, err := r.ServiceManager().StartService(t.Context(), core.ServiceConfig{Name: "s", Image: "example.org/a", NetworkID: "n", RunID: "r"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			var headers []string
			engine.on("POST /images/create", func(w http.ResponseWriter, r *http.Request) {
				headers = append(headers, r.Header.Get("X-Registry-Auth"))
			})
			engine.on(createRoute, inOrder(failure(http.StatusNotFound, "No such image: example.org/a:latest"), usualRoutes()[createRoute]))
			r := engine.runtime(t, withLogins(map[string]Login{"example.org": {Username: "user", Password: secret}}, nil))
			if err := create(r); err != nil {
				t.Fatal(err)
			}
			if len(headers) == 0 {
				t.Fatal("nothing was pulled")
			}
			for _, header := range headers {
				if got := decoded[registry.AuthConfig](t, header); got.Password != secret {
					t.Errorf("shown: %+v", got)
				}
			}
		})
	}
}

func TestNoLoginIsAskedForWithoutAPull(t *testing.T) {
	engine, asked := startFake(t), map[string]int{}
	r := engine.runtime(t, withLogins(nil, asked))
	if _, err := r.CreateContainer(t.Context(), core.Config{Image: "example.org/a"}); err != nil || len(asked) > 0 {
		t.Errorf("%v, asked for %v", err, asked)
	}
}

func TestLoginsThatCannotBeFound(t *testing.T) {
	typed := &core.Error{Op: "ask", Class: core.ErrTimeout}
	for name, test := range map[string]struct {
		login Login
		err   error
		class error
	}{
		"an error":       {err: errAny},
		"a typed error":  {err: typed, class: core.ErrTimeout},
		"not UTF-8":      {login: Login{Username: "user", Password: "\xff"}, class: core.ErrInvalidConfig},
		"a token not so": {login: Login{RegistryToken: "\xff"}, class: core.ErrInvalidConfig},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			r := engine.runtime(t, func(options *Options) {
				options.Logins = func(context.Context, string) (Login, error) { return test.login, test.err }
				options.ClassicBuilder = true
			})
			for what, err := range map[string]error{
				"pull":  r.PullImage(t.Context(), "example.org/a", nil),
				"build": r.BuildManager().BuildImage(t.Context(), "FROM example.org/a", "moat/x", core.BuildOptions{}),
			} {
				failed, ok := errors.AsType[*core.Error](err)
				if !ok || test.err != nil && !errors.Is(err, test.err) || !errors.Is(failed.Class, test.class) {
					t.Errorf("%s: %v, want %v, %v", what, err, test.err, test.class)
				}
				if test.err != typed && failed.Object != "example.org" {
					t.Errorf("%s: %v does not name the registry", what, err)
				}
			}
			if got := slices.DeleteFunc(engine.requests(), func(request string) bool { return strings.HasPrefix(request, "GET /images/") }); len(got) > 0 {
				t.Errorf("the engine was asked for %q", got)
			}
		})
	}
}

func TestLoginsObeyTheContext(t *testing.T) {
	engine, asked := startFake(t), newGate()
	r := engine.runtime(t, func(options *Options) {
		options.Logins = func(ctx context.Context, _ string) (Login, error) {
			close(asked.arrived)
			<-ctx.Done()
			return Login{}, errors.New("killed")
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	pull := begin(func() (any, error) { return nil, r.PullImage(ctx, "example.org/a", nil) })
	await(t, asked.arrived, "the question for a login")
	cancel()
	if _, err := pull.result(t); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v", err)
	}
}

// The classic builder has every login beforehand: only those that it needs.
func TestClassicBuildsShowTheLoginsThatTheyNeed(t *testing.T) {
	engine, asked := startFake(t), map[string]int{}
	var header string
	engine.on("POST /build", func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Get("X-Registry-Config")
		raw(`{"stream":"Successfully built 0123"}`)(w, r)
	})
	engine.on("GET /images/{name...}", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.PathValue("name"), "present.example/") {
			answer(http.StatusOK, image.InspectResponse{ID: "sha256:1"})(w, r)
			return
		}
		failure(http.StatusNotFound, "No such image")(w, r)
	})
	logins := map[string]Login{}
	for _, name := range []string{"docker.io", "base.example", "present.example", "copied.example:5000", "unused.example"} {
		logins[name] = Login{Username: name, Password: secret}
	}
	r := engine.runtime(t, withLogins(logins, asked), func(options *Options) { options.ClassicBuilder = true })
	err := r.BuildManager().BuildImage(t.Context(), `ARG WHERE=unused.example
ARG TAG=1
FROM ${WHERE}/image:$TAG AS first
FROM first AS second
FROM present.example/image
COPY --from=copied.example:5000/image /a /a
COPY --from=first /b /b
COPY --from=0 /c /c
FROM scratch
FROM alpine
`, "moat/x", core.BuildOptions{Args: map[string]string{"WHERE": "base.example"}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]registry.AuthConfig{}
	for key, name := range map[string]string{"https://index.docker.io/v1/": "docker.io", "base.example": "base.example", "copied.example:5000": "copied.example:5000"} {
		want[key] = registry.AuthConfig{Username: name, Password: secret}
	}
	if got := decoded[map[string]registry.AuthConfig](t, header); !reflect.DeepEqual(got, want) {
		t.Errorf("shown: %+v, want %+v", got, want)
	}
	if want := map[string]int{"docker.io": 1, "base.example": 1, "copied.example:5000": 1}; !reflect.DeepEqual(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

// The build fails with what its builder is not told.
func TestBuildsKnowOfLoginsThatCannotBeFound(t *testing.T) {
	r := startFake(t).runtime(t, func(options *Options) {
		options.Logins = func(context.Context, string) (Login, error) { return Login{}, errors.New(secret) }
	})
	c, err := r.call(t.Context(), "build image", "moat/x")
	if err != nil {
		t.Fatal(err)
	}
	defer c.end()
	request := r.buildRequest(c, "FROM scratch", "moat/x", core.BuildOptions{})
	if _, err := request.Engine.Login("example.org"); err == nil || c.logins.failure() == nil {
		t.Errorf("the builder got %v, the build knows of %v", err, c.logins.failure())
	}
}

// What engines really say of registries that refuse: Docker 20.10 and 29, their pulls,
// their BuildKit and their classic builder.
func TestRefusals(t *testing.T) {
	const host = "127.0.0.1:32768"
	token := jwt(time.Now().Add(-time.Hour))
	var (
		none    = Login{}
		user    = Login{Username: "tester", Password: secret}
		gone    = Login{IdentityToken: token}
		gone2   = Login{RegistryToken: token}
		gone3   = Login{Username: "oauth2accesstoken", Password: token}
		current = Login{RegistryToken: jwt(time.Now().Add(time.Hour))}
	)
	const (
		again  = "Log in again with `docker login " + host + "`"
		access = "Log in again or as another user with `docker login " + host + "`, or ask the image's owner for access"
		denied = checkTag + "; if it is private, log in again or as another user with `docker login " + host + "`, or ask the image's owner for access"
	)
	for _, test := range []struct {
		status  int
		text    string
		login   Login
		problem optional.LoginProblem
		class   error
		remedy  string
	}{
		{500, `Head "http://` + host + `/v2/moat/x/manifests/latest": no basic auth credentials`, none, optional.LoginMissing, core.ErrUnavailable, "Log in with `docker login " + host + "`"},
		{500, `Head "http://` + host + `/v2/moat/x/manifests/latest": unauthorized: incorrect username or password`, none, optional.LoginMissing, core.ErrUnavailable, "Log in with `docker login " + host + "`"},
		{404, `failed to resolve reference "` + host + `/moat/x:latest": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials`, none, optional.LoginMissing, core.ErrUnavailable, "Log in with `docker login " + host + "`"},
		{500, `pulling from host ` + host + ` failed with status code [manifests latest]: 401 Unauthorized`, none, optional.LoginMissing, core.ErrUnavailable, "Log in with `docker login " + host + "`"},
		{500, `failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized`, none, optional.LoginMissing, core.ErrUnavailable, "Log in with `docker login " + host + "`"},
		{404, `pull access denied for ` + host + `/moat/x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied`, none, optional.LoginMissing, core.ErrNotFound, checkTag + "; if it is private, log in with `docker login " + host + "`"},

		{500, `unauthorized: authentication required`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{500, `Head "http://` + host + `/v2/moat/x/manifests/latest": unauthorized: incorrect username or password`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{500, `unknown: failed to resolve reference "` + host + `/moat/x:latest": unexpected status from HEAD request to http://` + host + `/v2/moat/x/manifests/latest: 401 Unauthorized`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{500, `failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{500, `failed to authorize: failed to fetch oauth token: unauthorized: incorrect username or password`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{401, `error from registry: incorrect username or password`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{500, `error from registry: incorrect username or password`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{500, `error from registry: authentication required`, user, optional.LoginRejected, core.ErrUnavailable, again},
		{500, `Head "http://` + host + `/v2/moat/x/manifests/latest": no basic auth credentials`, Login{IdentityToken: "not for this registry"}, optional.LoginRejected, core.ErrUnavailable, again},

		{500, `unauthorized: authentication required`, gone, optional.LoginExpired, core.ErrUnavailable, again},
		{500, `pulling from host ` + host + ` failed with status code [manifests latest]: 401 Unauthorized`, gone2, optional.LoginExpired, core.ErrUnavailable, again},
		{401, `error from registry: incorrect username or password`, gone3, optional.LoginExpired, core.ErrUnavailable, again},
		{404, `pull access denied for ` + host + `/moat/x, repository does not exist or may require 'docker login': denied: Your authorization token has expired. Reauthenticate and try again.`, user, optional.LoginExpired, core.ErrUnavailable, again},
		{403, `error from registry: Your authorization token has expired. Reauthenticate and try again.`, user, optional.LoginExpired, core.ErrUnavailable, again},

		{404, `pull access denied for ` + host + `/moat/x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied`, user, optional.LoginDenied, core.ErrNotFound, denied},
		{404, `pull access denied for ` + host + `/moat/x, repository does not exist or may require 'docker login'`, current, optional.LoginDenied, core.ErrNotFound, denied},
		{500, `pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed`, user, optional.LoginDenied, core.ErrNotFound, denied},
		{500, `denied`, user, optional.LoginDenied, core.ErrUnavailable, access},
		{500, `denied: your plan has ended`, user, optional.LoginDenied, core.ErrUnavailable, access},
		{403, "error from registry: denied\ndenied", user, optional.LoginDenied, core.ErrUnavailable, access},
		{403, `error from registry: your plan has ended`, user, optional.LoginDenied, core.ErrUnavailable, access},
		{500, `error from registry: your plan has ended`, user, optional.LoginDenied, core.ErrUnavailable, access},
		{500, `unexpected status from HEAD request to http://` + host + "/v2/moat/x/manifests/latest: 403 Forbidden\ndenied", user, optional.LoginDenied, core.ErrUnavailable, access},

		// Whatever the login is worth.
		{404, `manifest for ` + host + `/moat/x:latest not found: manifest unknown: manifest unknown`, user, "", core.ErrNotFound, checkTag},
		{404, `failed to resolve reference "` + host + `/moat/x:latest": ` + host + `/moat/x:latest: not found`, gone, "", core.ErrNotFound, checkTag},
		{500, `Get "http://` + host + `/v2/": dial tcp ` + host + `: connect: connection refused`, gone, "", core.ErrUnavailable, askRegistry},
		{500, `toomanyrequests: You have reached your pull rate limit.`, user, "", core.ErrUnavailable, pullLater},
		{500, `unknown: failed to resolve reference "` + host + `/moat/x:latest": unexpected status from HEAD request to http://` + host + `/v2/moat/x/manifests/latest: 429 Too Many Requests`, user, "", core.ErrUnavailable, pullLater},
		{500, `received unexpected HTTP status: 503 Service Unavailable`, user, "", core.ErrUnavailable, registryBroken},
		{500, `pulling from host ` + host + ` failed with status code [manifests latest]: 500 Internal Server Error`, user, "", core.ErrUnavailable, registryBroken},
	} {
		t.Run(fmt.Sprint(test.text, " ", test.problem), func(t *testing.T) {
			engine := startFake(t)
			engine.on("POST /images/create", failure(test.status, test.text))
			r := engine.runtime(t, withLogins(map[string]Login{host: test.login}, nil))
			err := r.PullImage(t.Context(), host+"/moat/x", nil)
			failed, ok := errors.AsType[*core.Error](err)
			if !ok || !errors.Is(failed.Class, test.class) || failed.Remedy != test.remedy {
				t.Errorf("got %#v, want %v and %s", failed, test.class, test.remedy)
			}
			refused, ok := errors.AsType[*optional.LoginError](err)
			if ok != (test.problem != "") || ok && (refused.Problem != test.problem || refused.Registry != host) {
				t.Errorf("got %#v, want the login to be %q", refused, test.problem)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v does not have the engine's words", err)
			}
		})
	}
}

// jwt is an unsigned JSON Web Token.
func jwt(until time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode(fmt.Appendf(nil, `{"exp":%d}`, until.Unix())) + "." + encode([]byte("signature"))
}

func TestRefusalWithoutLoginsToBeHad(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /images/create", failure(http.StatusInternalServerError, "no basic auth credentials"))
	err := engine.runtime(t).PullImage(t.Context(), "example.org/a", nil)
	refused, ok := errors.AsType[*optional.LoginError](err)
	if !ok || refused.Problem != optional.LoginMissing || !strings.Contains(err.Error(), "docker.Options.Logins") {
		t.Errorf("got %v", err)
	}
}

func TestRefusalAtTheHub(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /images/create", failure(http.StatusNotFound, "pull access denied for nosuch, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"))
	err := engine.runtime(t, withLogins(nil, nil)).PullImage(t.Context(), "nosuch", nil)
	if !errors.Is(err, core.ErrNotFound) || !strings.HasSuffix(err.Error(), "if it is private, log in with `docker login`") {
		t.Errorf("got %v", err)
	}
}

// A build pulls from several registries: which of them has refused its step tells.
func TestRefusalOfOneRegistryOfSeveral(t *testing.T) {
	r := startFake(t).runtime(t, withLogins(map[string]Login{"a.example:50": {Username: "a", Password: secret}}, nil))
	for step, want := range map[string]string{
		"[internal] load metadata for a.example:50/x:latest":  "a.example:50",
		"[internal] load metadata for a.example:500/x:latest": "a.example:500",
		"[2/2] RUN true": "",
	} {
		c, err := r.call(t.Context(), "build image", "moat/x")
		if err != nil {
			t.Fatal(err)
		}
		defer c.end()
		for _, name := range []string{"a.example:50", "a.example:500"} {
			if _, err := r.login(c, name); err != nil {
				t.Fatal(err)
			}
		}
		refusal := errors.New("failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized")
		err = r.buildFailure(c, builder.NewStepError("FROM x\nRUN true\n", refusal, 0, step, ""))
		refused, ok := errors.AsType[*optional.LoginError](err)
		if ok != (want != "") || ok && refused.Registry != want {
			t.Errorf("%s: %v", step, err)
		}
		if !errors.Is(err, core.ErrUnavailable) || !strings.Contains(err.Error(), "docker login") {
			t.Errorf("%s: %v", step, err)
		}
	}
}

// Whatever form of it an engine quotes.
func TestErrorsHaveNoLogin(t *testing.T) {
	login := Login{Username: "a user", Password: secret, IdentityToken: "identity-" + secret, RegistryToken: "registry-" + secret}
	engine := startFake(t)
	r := engine.runtime(t, withLogins(map[string]Login{"example.org": login}, nil))
	pair := base64.StdEncoding.EncodeToString([]byte(login.Username + ":" + login.Password))
	for _, text := range []string{
		"refused: " + secret, `refused: "s3cr3t\/of+a=login"`, "https://user:s3cr3t%2Fof%2Ba%3Dlogin@example.org", "Authorization: Basic " + pair,
		"Bearer " + login.RegistryToken, "refresh_token=" + login.IdentityToken, "unauthorized: " + secret,
		"GET https://example.org/token?account=a+user&scope=x: unauthorized: no",
	} {
		for _, route := range []http.HandlerFunc{failure(http.StatusInternalServerError, text), answer(http.StatusOK, map[string]any{"errorDetail": map[string]string{"message": text}})} {
			engine.on("POST /images/create", route)
			err := r.PullImage(t.Context(), "example.org/a", nil)
			for unwrapped := err; unwrapped != nil; unwrapped = inside(unwrapped) {
				for _, form := range []string{"s3cr3t", pair, "a+user"} {
					if strings.Contains(fmt.Sprintf("%v %+v", unwrapped, unwrapped), form) {
						t.Errorf("%q is in %v", form, unwrapped)
					}
				}
			}
			if err == nil {
				t.Error("no error")
			}
		}
	}
}

// inside returns the cause of an error.
func inside(err error) error {
	switch e := err.(type) {
	case *core.Error:
		return e.Err
	case interface{ Unwrap() error }:
		return e.Unwrap()
	}
	return nil
}

func TestLoginsDoNotPrint(t *testing.T) {
	login := Login{Username: secret, Password: secret, IdentityToken: secret, RegistryToken: secret}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "login", login, "pointer", &login)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "login", login, "logins", []Login{login})
	asJSON, err := json.Marshal(map[string]any{"login": login})
	for _, text := range []string{
		log.String(), string(asJSON), fmt.Sprint(login), fmt.Sprintf("%+v %#v %s %q %x", login, login, login, login, &login), fmt.Sprintf("%+v", []Login{login}),
	} {
		if err != nil || strings.Contains(text, "s3cr3t") || text == "" {
			t.Errorf("%q, %v", text, err)
		}
	}
}
