package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	helpers "github.com/docker/docker-credential-helpers/client"
	helper "github.com/docker/docker-credential-helpers/credentials"
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/core"
)

// envLogins is the variable in which Docker's client takes logins beside its file.
const envLogins = configfile.DockerEnvConfigKey

// helperTimeout leaves time to confirm a key store's question: BuildKit waits for a
// login for a minute.
const helperTimeout = 50 * time.Second

// helperGrace is how long the output of a helper program is waited for once it has ended.
const helperGrace = 200 * time.Millisecond

// Logins implements [Options.Logins] with the logins of the Docker client: of
// DOCKER_AUTH_CONFIG, else of the file config.json in DOCKER_CONFIG or ~/.docker, which
// may name a program docker-credential-NAME that keeps them. It reads the file each time,
// and writes nothing. A program is run as this process would run it, for 50 seconds at most.
func (env Environment) Logins(ctx context.Context, registry string) (Login, error) {
	key := build.RegistryKey(registry)
	if content := env.Getenv(envLogins); content != "" {
		set, err := parseLogins(strings.NewReader(content))
		if err != nil {
			return Login{}, invalidLogins(registry, fmt.Errorf("%s: %w", envLogins, err), "Correct the variable, or unset it")
		}
		if login := storedLogin(set, key); login != (Login{}) {
			return login, nil
		}
	}
	path := filepath.Join(env.configDir(), "config.json")
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Login{}, nil
	}
	if err != nil {
		return Login{}, invalidLogins(registry, err, "Make it readable, or name another directory with DOCKER_CONFIG")
	}
	defer file.Close()
	set, err := parseLogins(file)
	if err != nil {
		return Login{}, invalidLogins(registry, fmt.Errorf("%s: %w", path, err), "Correct the file, or name another directory with DOCKER_CONFIG")
	}
	name, ok := set.CredentialHelpers[key]
	if !ok {
		name = set.CredentialsStore
	}
	if name == "" {
		return storedLogin(set, key), nil
	}
	login, err := helpedLogin(ctx, "docker-credential-"+name, registry)
	if err == nil {
		// A helper has no place for such a token: Docker's client takes it from the file.
		login.RegistryToken = storedLogin(set, key).RegistryToken
	}
	return login, err
}

// parseLogins reads the Docker client's configuration. Its errors do not quote it.
func parseLogins(content io.Reader) (*configfile.ConfigFile, error) {
	set := configfile.New("")
	return set, set.LoadFromReader(content)
}

func storedLogin(set *configfile.ConfigFile, key string) Login {
	found, _ := credentials.NewFileStore(set).Get(key) // it has no error
	return Login{
		Username: found.Username, Password: found.Password,
		IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
	}
}

func invalidLogins(registry string, err error, remedy string) error {
	return &core.Error{
		Op: opFindLogin, Runtime: core.RuntimeDocker, Object: registry, Class: core.ErrInvalidConfig,
		Err: err, Remedy: remedy,
	}
}

// tokenUser is the user's name by which a helper says that it has an identity token.
const tokenUser = "<token>"

// helpedLogin asks a helper program. What that writes is in no error: it may be a login.
func helpedLogin(ctx context.Context, program, registry string) (Login, error) {
	limited, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	run := &helperRun{ctx: limited, program: program}
	found, err := helpers.Get(func(args ...string) helpers.Program {
		run.args = args
		return run
	}, build.RegistryKey(registry))
	switch {
	case helper.IsErrCredentialsNotFound(err):
		return Login{}, nil
	case err == nil && found.Username == tokenUser:
		return Login{IdentityToken: found.Secret}, nil
	case err == nil:
		return Login{Username: found.Username, Password: found.Secret}, nil
	case ctx.Err() != nil:
		return Login{}, ctx.Err()
	}
	failure := &core.Error{
		Op: opFindLogin, Runtime: core.RuntimeDocker, Object: registry, Class: core.ErrUnavailable,
		Remedy: fmt.Sprintf("Run `echo %s | %s get` to see why: it should print JSON with the login", build.RegistryKey(registry), program),
	}
	switch {
	case limited.Err() != nil:
		failure.Class, failure.Err = core.ErrTimeout, fmt.Errorf("%s has not answered within %v", program, helperTimeout)
	case errors.Is(run.err, exec.ErrNotFound) || errors.Is(run.err, fs.ErrNotExist) || errors.Is(run.err, fs.ErrPermission):
		failure.Class, failure.Err = core.ErrInvalidConfig, fmt.Errorf("%s, which the Docker client's config.json asks for logins, cannot be run: %w", program, run.err)
		failure.Remedy = "Install it in a directory of PATH, or remove it from credsStore and credHelpers in that file"
	case run.err != nil:
		failure.Err = fmt.Errorf("%s failed: %w", program, run.err)
	default:
		failure.Err = fmt.Errorf("the answer of %s is not a login in JSON", program)
	}
	return Login{}, failure
}

// helperRun is a run of a helper program, as Docker's library wants one.
type helperRun struct {
	ctx     context.Context
	program string
	args    []string
	input   io.Reader
	err     error
}

// Input sets the program's standard input.
func (r *helperRun) Input(input io.Reader) { r.input = input }

// Output runs the program, and returns what it writes.
func (r *helperRun) Output() ([]byte, error) {
	command := exec.CommandContext(r.ctx, r.program, r.args...)
	command.Stdin, command.WaitDelay = r.input, helperGrace
	output, err := command.Output()
	r.err = err
	said := output
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		said = append(said, failed.Stderr...)
	}
	// Not all helpers say it as Docker's own do, on standard output and nothing else.
	if err != nil && bytes.Contains(bytes.ToLower(said), []byte("credentials not found")) {
		return []byte(helper.NewErrCredentialsNotFound().Error()), err
	}
	return output, err
}
