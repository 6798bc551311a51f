// Package services implements core.ServiceManager and core.SidecarManager for all adapters,
// on top of a runtime's other methods. It also defines the services that users can ask for.
package services

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/internal/validation"
)

// Definition says how an image is run as a service and what of it the run's main
// container is told.
type Definition struct {
	Name    string   // in `NAME:VERSION`, as host name, and in MOAT_<NAME>_HOST
	Aliases []string // what users may write instead of Name
	Image   string   // without a tag

	// Ports by name. "default" is MOAT_<NAME>_PORT and the URL's, any other OTHER is
	// MOAT_<NAME>_PORT_<OTHER>.
	Ports map[string]int

	Env         map[string]string // set where the user sets nothing
	PasswordEnv string            // the variable with the password; empty: there is none
	User        string            // the user that the password is for; empty: none is named
	UserEnv     string            // a variable with that user's name, if set; it wins over User
	DatabaseEnv string            // the variable with the database's name; empty: there is none

	// {password} and {key} in them stand for Env[PasswordEnv] and for Env[KEY]; see
	// [core.ServiceInfo.ReadinessScript]. While an image initialises its data, a temporary
	// server may answer on a Unix socket: let ReadinessCmd ask over TCP, 127.0.0.1.
	ExtraCmd     []string
	ReadinessCmd string

	URLScheme string // of MOAT_<NAME>_URL, such as "postgres"; empty: there is none
}

// Definitions are the services that users may name. Its methods leave it unchanged.
type Definitions []Definition

// Default returns the services that Moat knows, as their official images behave.
func Default() Definitions {
	return Definitions{
		{
			Name: "mariadb", Image: "mariadb", Ports: map[string]int{"default": 3306},
			Env: map[string]string{"MARIADB_DATABASE": "moat"}, DatabaseEnv: "MARIADB_DATABASE",
			User: "root", PasswordEnv: "MARIADB_ROOT_PASSWORD",
			ReadinessCmd: "MYSQL_PWD={password} mariadb-admin ping -h 127.0.0.1 -u root",
			URLScheme:    "mysql",
		},
		{
			Name: "mysql", Image: "mysql", Ports: map[string]int{"default": 3306},
			Env: map[string]string{"MYSQL_DATABASE": "moat"}, DatabaseEnv: "MYSQL_DATABASE",
			User: "root", PasswordEnv: "MYSQL_ROOT_PASSWORD",
			ReadinessCmd: "MYSQL_PWD={password} mysqladmin ping -h 127.0.0.1 -u root",
			URLScheme:    "mysql",
		},
		{
			Name: "postgres", Aliases: []string{"postgresql"}, Image: "postgres", Ports: map[string]int{"default": 5432},
			Env:     map[string]string{"POSTGRES_USER": "postgres", "POSTGRES_DB": "postgres"},
			UserEnv: "POSTGRES_USER", PasswordEnv: "POSTGRES_PASSWORD", DatabaseEnv: "POSTGRES_DB",
			// A user and a database that do not exist would answer too, and fill the server's log.
			ReadinessCmd: "pg_isready -h 127.0.0.1 -U {postgres_user} -d {postgres_db}",
			URLScheme:    "postgres",
		},
		{
			Name: "redis", Image: "redis", Ports: map[string]int{"default": 6379},
			// Clients that find no user in a URL do not agree on what that means.
			User: "default",
			// The image knows no such variable: it is where the arguments' value comes from.
			PasswordEnv: "REDIS_PASSWORD", ExtraCmd: []string{"--requirepass", "{password}"},
			// redis-cli succeeds with any answer, also that it wants a password or is still loading.
			ReadinessCmd: `answer=$(REDISCLI_AUTH={password} redis-cli -h 127.0.0.1 ping); echo "$answer"; [ "$answer" = PONG ]`,
			URLScheme:    "redis",
		},
	}
}

// With returns the services and this definition, in the place of the one of that name
// where there is one. A name or alias of another's is [core.ErrInvalidConfig].
func (s Definitions) With(d Definition) (Definitions, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	others := slices.DeleteFunc(slices.Clone(s), func(other Definition) bool { return other.Name == d.Name })
	for _, name := range d.Aliases {
		if other, ok := others.Lookup(name); ok {
			return nil, core.Invalid("Aliases", "%q is the service %s", name, other.Name)
		}
	}
	if other, ok := others.Lookup(d.Name); ok {
		return nil, core.Invalid("Name", "%q is an alias of the service %s", d.Name, other.Name)
	}
	return append(others, d), nil
}

// Lookup returns the service of this name or alias.
func (s Definitions) Lookup(name string) (Definition, bool) {
	for _, d := range s {
		if d.Name == name || slices.Contains(d.Aliases, name) {
			return d, true
		}
	}
	return Definition{}, false
}

// Parse reads what users write, NAME or NAME:VERSION, where VERSION is the image's tag.
// Anything else is [core.ErrInvalidConfig], field service.
func (s Definitions) Parse(spec string) (d Definition, version string, err error) {
	name, version, hasVersion := strings.Cut(spec, ":")
	d, ok := s.Lookup(name)
	switch {
	case !ok:
		var known []string
		for _, d := range s {
			known = append(known, d.Name)
		}
		slices.Sort(known)
		return d, "", core.Invalid("service", "%q is not NAME or NAME:VERSION, where NAME is one of %s", spec, strings.Join(known, ", "))
	case hasVersion && !validation.Tag().MatchString(version):
		return Definition{}, "", core.Invalid("service", "%q is not an image's tag, as in %s:17", version, name)
	}
	return d, version, nil
}

var (
	variablePattern = validation.Pattern(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	schemePattern   = validation.Pattern(`^[a-z][a-z0-9+.-]*$`)
)

// Validate reports the first setting of which no service could be made, as
// [core.ErrInvalidConfig] with the field's name.
func (d Definition) Validate() error {
	for _, alias := range d.Aliases {
		if !validation.ServiceName().MatchString(alias) {
			return core.Invalid("Aliases", "%q is not a service's name", alias)
		}
	}
	for _, variable := range []struct{ field, name string }{
		{"PasswordEnv", d.PasswordEnv}, {"UserEnv", d.UserEnv}, {"DatabaseEnv", d.DatabaseEnv},
	} {
		if variable.name != "" && !variablePattern().MatchString(variable.name) {
			return core.Invalid(variable.field, "%q is not a variable's name", variable.name)
		}
	}
	if d.URLScheme != "" {
		if !schemePattern().MatchString(d.URLScheme) {
			return core.Invalid("URLScheme", "%q is not a URL's scheme", d.URLScheme)
		}
		if d.Ports["default"] == 0 {
			return core.Invalid("Ports", "a URL needs the port named default")
		}
	}
	if flaw := validation.Flaw(d.User); flaw != "" {
		return core.Invalid("User", "%q %s", d.User, flaw)
	}
	return d.config("", "0", d.Env).Validate()
}

// Config returns the configuration of one service of this kind. The user's variables
// replace the definition's. Where they set no password, or an empty one, it is made of
// 128 bits read from random, which is crypto/rand's Reader outside tests.
func (d Definition) Config(version, runID string, env map[string]string, random io.Reader) (core.ServiceConfig, error) {
	merged := map[string]string{}
	maps.Copy(merged, d.Env)
	maps.Copy(merged, env)
	if d.PasswordEnv != "" && merged[d.PasswordEnv] == "" {
		var key [16]byte
		if _, err := io.ReadFull(random, key[:]); err != nil {
			return core.ServiceConfig{}, &core.Error{Op: "make a password", Object: d.Name, Err: err}
		}
		// Neither URLs nor shells nor flags give these digits another meaning.
		merged[d.PasswordEnv] = hex.EncodeToString(key[:])
	}
	cfg := d.config(version, runID, merged)
	return cfg, cfg.Validate()
}

func (d Definition) config(version, runID string, env map[string]string) core.ServiceConfig {
	return core.ServiceConfig{
		Name: d.Name, Version: version, Env: env, RunID: runID, Image: d.Image, Ports: maps.Clone(d.Ports),
		PasswordEnv: d.PasswordEnv, ExtraCmd: slices.Clone(d.ExtraCmd), ReadinessCmd: d.ReadinessCmd,
	}
}

// MainEnv returns what the run's main container is told of a service, KEY=value:
// MOAT_<NAME>_HOST, _PORT, _USER, _DB, _PASSWORD and _URL, those that there are.
func (d Definition) MainEnv(info core.ServiceInfo) []string {
	prefix := "MOAT_" + variableName(d.Name)
	user, password, database := cmp.Or(info.Env[d.UserEnv], d.User), info.Env[info.PasswordEnv], info.Env[d.DatabaseEnv]
	var env []string
	add := func(name, value string) {
		if value != "" {
			env = append(env, fmt.Sprintf("%s_%s=%s", prefix, name, value))
		}
	}
	add("HOST", info.Host)
	for _, name := range validation.SortedKeys(info.Ports) {
		variable := "PORT_" + variableName(name)
		if name == "default" {
			variable = "PORT"
		}
		add(variable, strconv.Itoa(info.Ports[name]))
	}
	add("USER", user)
	add("DB", database)
	add("PASSWORD", password)
	if d.URLScheme != "" {
		// All but letters, digits and -_.~ is encoded: what a URL may contain, not every client's parser takes.
		encode := func(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }
		login, path := encode(user), ""
		if password != "" {
			login += ":" + encode(password)
		}
		if login != "" {
			login += "@"
		}
		if database != "" {
			path = "/" + encode(database)
		}
		add("URL", d.URLScheme+"://"+login+hostPort(info.Host, info.Ports["default"])+path)
	}
	return env
}

func variableName(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// hostPort is net.JoinHostPort: core imports nothing that could do I/O.
func hostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}
