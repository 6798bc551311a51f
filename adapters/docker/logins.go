package docker

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/redact"
)

// Login is what an engine shows a registry: a user's name and password, or a token. The
// zero Login is none. It prints and logs as "[redacted]".
type Login struct {
	Username, Password string
	IdentityToken      string // the registry's token server takes it instead of a password
	RegistryToken      string // the registry itself takes it
}

const redacted = "[redacted]"

// String hides the login.
func (Login) String() string { return redacted }

// GoString hides the login.
func (Login) GoString() string { return redacted }

// LogValue hides the login.
func (Login) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the login.
func (Login) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// config returns the login in the engine's form.
func (l Login) config() registry.AuthConfig {
	return registry.AuthConfig{Username: l.Username, Password: l.Password, IdentityToken: l.IdentityToken, RegistryToken: l.RegistryToken}
}

// hide returns a text without the login. The user's name goes only where a token server's
// address has it: the names of the user's images begin with it.
func (l Login) hide(text string) string {
	if l.Username != "" {
		text = strings.ReplaceAll(text, "account="+url.QueryEscape(l.Username), "account="+redacted)
	}
	secrets := []string{l.Password, l.IdentityToken, l.RegistryToken}
	if l.Password != "" {
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(l.Username+":"+l.Password)))
	}
	return redact.Text(text, secrets...)
}

// expired tells whether the login is a JSON Web Token of the past.
func (l Login) expired(now time.Time) bool {
	for _, secret := range []string{l.RegistryToken, l.IdentityToken, l.Password} {
		parts := strings.Split(secret, ".")
		if len(parts) != 3 {
			continue
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		var claims struct{ Exp float64 }
		if err == nil && json.Unmarshal(payload, &claims) == nil && claims.Exp > 0 && time.Unix(int64(claims.Exp), 0).Before(now) {
			return true
		}
	}
	return false
}

// logins are those of one call, by registry. What was looked up once is not again.
type logins struct {
	mu    sync.Mutex
	known map[string]Login
	err   error // the first that could not be found
}

// login returns the login that a call shows a registry, the zero Login for none.
func (r *Runtime) login(c *call, name string) (Login, error) {
	l := &c.logins
	l.mu.Lock()
	defer l.mu.Unlock()
	if login, known := l.known[name]; known {
		return login, nil
	}
	login, err := r.findLogin(c.ctx, name)
	if err != nil {
		l.err = cmp.Or(l.err, err)
		return Login{}, err
	}
	if l.known == nil {
		l.known = map[string]Login{}
	}
	l.known[name] = login
	return login, nil
}

func (r *Runtime) findLogin(ctx context.Context, name string) (Login, error) {
	if r.options.Logins == nil {
		return Login{}, nil
	}
	login, err := r.options.Logins(ctx, name)
	failure := &core.Error{Op: opFindLogin, Runtime: core.RuntimeDocker, Object: name, Err: err}
	_, typed := errors.AsType[*core.Error](err)
	switch {
	case ctx.Err() != nil:
		return Login{}, ctx.Err()
	case typed:
		return Login{}, err
	case err != nil:
		return Login{}, failure
	case !utf8.ValidString(login.Username + login.Password + login.IdentityToken + login.RegistryToken):
		failure.Class, failure.Err = core.ErrInvalidConfig, errors.New("it is not UTF-8, as the engine's protocol requires")
		return Login{}, failure
	}
	return login, nil
}

const opFindLogin = "find login"

// about returns the registry that an error is about, and the login that it was shown.
func (l *logins) about(text string) (name string, login Login, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for known := range l.known {
		if (len(l.known) == 1 || strings.Contains(text, strings.ToLower(known))) && len(known) > len(name) {
			name, found = known, true
		}
	}
	return name, l.known[name], found
}

// hide returns an error whose text has none of the logins.
func (l *logins) hide(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := err.Error()
	for _, login := range l.known {
		text = login.hide(text)
	}
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

func (l *logins) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
