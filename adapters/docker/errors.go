package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
	"github.com/moatproject/moat/core/optional"
)

// errNoPing is matched by whatever came instead of an answer to a ping.
var errNoPing = errors.New("no answer to a ping")

// failed turns what an engine call returned into Moat's error: the only way by which
// an engine's failure leaves this package. nil stays nil, Moat's errors what they are.
func (c *call) failed(err error) error {
	if err == nil {
		return nil
	}
	if _, already := errors.AsType[*core.Error](err); already {
		return err
	}
	failure := &core.Error{Op: c.op, Runtime: core.RuntimeDocker, Object: c.object, Err: err}
	if written, ok := errors.AsType[*driver.CallerError](err); ok {
		failure.Err = written.Err
		return failure
	}
	if errors.Is(err, io.EOF) { // it must not pass for the good end of a stream
		err = &causedError{errors.New(err.Error()), io.ErrUnexpectedEOF}
		failure.Err = err
	}
	switch cause := context.Cause(c.ctx); {
	case errors.Is(cause, errRuntimeClosed):
		failure.Class, failure.Err = core.ErrUnavailable, errRuntimeClosed
	case errors.Is(cause, errStreamClosed):
		failure.Err = errStreamClosed
	case errors.Is(cause, errCallTimeout):
		failure.Class, failure.Err, failure.Remedy = core.ErrTimeout, errCallTimeout, checkEngine
	case c.caller.Err() != nil:
		failure.Err = c.caller.Err()
		if errors.Is(failure.Err, context.DeadlineExceeded) {
			failure.Class = core.ErrTimeout
		}
	default:
		c.classify(failure, err)
		failure.Err = c.logins.hide(failure.Err)
	}
	return failure
}

// classify fills in class, field and remedy, by the first rule that matches.
func (c *call) classify(failure *core.Error, err error) {
	text := strings.ToLower(err.Error())
	for _, rule := range slices.Concat(podmanRules, rules) {
		if rule.matches(text, err) {
			failure.Class, failure.Field, failure.Remedy = rule.class, rule.field, rule.remedy
			if rule.cause != nil {
				failure.Err = &causedError{err, rule.cause}
			}
			if rule.refuses != nothing {
				c.explain(failure, text, rule.refuses)
			}
			return
		}
	}
}

// explain tells what is wrong with the login that a registry was shown, if any.
func (c *call) explain(failure *core.Error, text string, what refused) {
	name, login, found := c.logins.about(text + strings.ToLower(c.step))
	if !found {
		return
	}
	command := "`docker login " + name + "`"
	if name == build.Hub {
		command = "`docker login`"
	}
	var problem optional.LoginProblem
	var remedy string
	switch {
	case login == Login{} && !c.looksUp:
		problem, remedy = optional.LoginMissing, "give the runtime logins (docker.Options.Logins)"
	case login == Login{}:
		problem, remedy = optional.LoginMissing, "log in with "+command
	case strings.Contains(text, "expired") || login.expired(time.Now()):
		problem, remedy, what = optional.LoginExpired, "log in again with "+command, anyLogin
	case what == anyLogin:
		problem, remedy = optional.LoginRejected, "log in again with "+command
	default:
		problem, remedy = optional.LoginDenied, "log in again or as another user with "+command+", or ask the image's owner for access"
	}
	failure.Remedy = strings.ToUpper(remedy[:1]) + remedy[1:]
	if what == imageOrAccess {
		failure.Remedy = checkTag + "; if it is private, " + remedy
	} else {
		failure.Class = core.ErrUnavailable
	}
	failure.Err = &optional.LoginError{Registry: name, Problem: problem, Err: c.logins.hide(failure.Err)}
}

// refused is what a registry refuses.
type refused int

const (
	nothing       refused = iota
	anyLogin              // it wants another login, or one
	access                // the login has no access to the image
	imageOrAccess         // that, or there is no such image
)

// rule gives a meaning to failures that come without a class, or with a coarse one.
type rule struct {
	is      func(error) bool // nil: whatever has the texts
	texts   []string         // all of them occur, in lower case
	class   error
	field   string
	cause   error
	remedy  string
	refuses refused
}

func (r rule) matches(text string, err error) bool {
	for _, part := range r.texts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return r.is == nil || r.is(err)
}

const (
	checkEngine    = "Check that the engine is healthy"
	startBuildKit  = "Start BuildKit, set BUILDKIT_HOST to another one, or unset BUILDKIT_HOST to build with the engine"
	startEngine    = "Start the engine, or name another endpoint with DOCKER_HOST"
	otherPort      = "Choose another host port, or 0 for a free one"
	askRegistry    = "Check the registry's address, and that the engine's host can reach it"
	askAccess      = "Ask the administrator of the engine, or of the proxy in front of it, for access"
	checkTag       = "Check the image's name and tag"
	registryBroken = "Try again later: the registry reports an internal failure"
	pullLater      = "Try again later, or log in with `docker login`: the registry limits pulls"
	logIn          = "Log in to the image's registry with `docker login`"

	checkRuntimes  = "Check the engine's OCI runtimes (docker info)"
	checkProgram   = "Check the program's name, and that the program and its interpreter are in the image"
	runnable       = "Choose an executable file that is built for the engine's architecture"
	mendDockerfile = "Fix the Dockerfile"
	checkContext   = "Check the path, and the patterns in .dockerignore"
	otherFolder    = "Choose a path whose parents are directories"
)

var rules = []rule{
	{is: isCommandFailed}, // its words are the Dockerfile's
	{texts: []string{"dockerfile parse error"}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"the dockerfile", "cannot be empty"}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"file with no instructions"}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"no build stage in current context"}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"failed to parse stage name"}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"unsupported mount type"}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"failed to compute cache key", "not found"}, class: core.ErrInvalidConfig, field: "ContextFiles", remedy: checkContext},
	{texts: []string{" failed: file not found in build context"}, class: core.ErrInvalidConfig, field: "ContextFiles", remedy: checkContext},
	{texts: []string{" failed: no source files were specified"}, class: core.ErrInvalidConfig, field: "ContextFiles", remedy: checkContext},
	{texts: []string{" failed: forbidden path outside the build context"}, class: core.ErrInvalidConfig, field: "ContextFiles", remedy: checkContext},
	{texts: []string{"no space left on device"}, class: core.ErrUnavailable, remedy: "Free space on the engine's disk (docker system df)"},

	{is: isDeadline, class: core.ErrTimeout, remedy: checkEngine},
	{texts: []string{"requires api version"}, class: core.ErrUnavailable, remedy: "Upgrade the engine to Docker 20.10 or newer"},
	{is: unpermitted, class: core.ErrUnavailable, remedy: "Join the group that owns the socket (sudo usermod -aG docker $USER, then log in again), or use a rootless engine"},
	{is: unreachable, class: core.ErrUnavailable, remedy: startEngine},
	{texts: []string{"error reading remote info"}, class: core.ErrUnavailable, remedy: startEngine}, // whose cause the SDK drops

	// The OCI runtime's program, before it has become a container.
	{texts: []string{"unable to retrieve oci runtime error"}, class: core.ErrUnavailable, remedy: "Check the engine's OCI runtime"},
	{texts: []string{"unknown runtime specified"}, class: core.ErrUnavailable, remedy: checkRuntimes},
	{texts: []string{"unknown or invalid runtime name"}, class: core.ErrUnavailable, remedy: checkRuntimes},
	{texts: []string{"unable to apply caps"}, class: core.ErrUnsupported, remedy: "Ask for fewer capabilities: the engine's machine does not have all of these"},
	{texts: []string{"did not terminate successfully: exit status 137"}, class: core.ErrInvalidConfig, field: "MemoryMB", remedy: "Allow more memory: the sandbox itself needs memory too"},

	// runc.
	{texts: []string{"exec:", "executable file not found"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"exec:", "no such file or directory"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"exec:", "stat ", "not a directory"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"exec:", "permission denied"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"exec:", "is a directory"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"exec:", "too many levels of symbolic links"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"exec:", "file name too long"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"exec /", ": no such file or directory"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"exec /", ": permission denied"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"exec /", ": exec format error"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"chdir to cwd"}, class: core.ErrInvalidConfig, field: "WorkingDir", remedy: otherFolder},
	// runsc.
	{texts: []string{"error finding executable"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"failed to load", "no such file or directory"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"failed to load", "not a directory"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"failed to load", "permission denied"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"failed to load", "exec format error"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"failed to load", "too many symbolic links"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"failed to load", "file name too long"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},
	{texts: []string{"failed to find initial working directory"}, class: core.ErrInvalidConfig, field: "WorkingDir", remedy: otherFolder},
	// The gate.
	{texts: []string{"moat: ", ": no such program"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"moat: ", ": cannot be executed"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},

	{texts: []string{"no command specified"}, class: core.ErrInvalidConfig, field: "Cmd", remedy: "Give a command: the image has none of its own"},
	{texts: []string{"unable to find user"}, class: core.ErrInvalidConfig, field: "User", remedy: "Choose a user that the image knows, or a number"},
	{texts: []string{"unable to find group"}, class: core.ErrInvalidConfig, field: "GroupAdd", remedy: "Choose a group that the image knows, or a number"},
	{texts: []string{"cannot mkdir", "is not a directory"}, class: core.ErrInvalidConfig, field: "WorkingDir", remedy: otherFolder},
	{texts: []string{"extraction point is not a directory"}, class: core.ErrInvalidConfig, field: "dir", remedy: "Copy into a directory"},
	{texts: []string{"lstat ", ": not a directory"}, class: core.ErrInvalidConfig, field: "WorkingDir", remedy: otherFolder},
	{texts: []string{"bind source path does not exist"}, class: core.ErrInvalidConfig, field: "Mounts", cause: fs.ErrNotExist, remedy: "Create the source first"},
	{texts: []string{"invalid mount config"}, class: core.ErrInvalidConfig, field: "Mounts", remedy: "Check the source and the target"},
	{texts: []string{"error mounting", "not a directory"}, class: core.ErrInvalidConfig, field: "Mounts", remedy: "Mount directories on directories, and files on files"},
	{texts: []string{"invalid capadd"}, class: core.ErrInvalidConfig, field: "CapAdd", remedy: "Choose from `man 7 capabilities`"},
	{texts: []string{"range of cpus is"}, class: core.ErrInvalidConfig, field: "CPUs", remedy: "Ask for no more CPUs than the engine has"},
	{texts: []string{"minimum memory limit"}, class: core.ErrInvalidConfig, field: "MemoryMB", remedy: "Allow more memory"},
	{texts: []string{"invalid reference format"}, class: core.ErrInvalidConfig, field: "Image", remedy: "Write NAME[:TAG], in lower case"},
	{texts: []string{"cannot specify 64-byte hexadecimal"}, class: core.ErrNotFound, remedy: "Pull the image by its name, not by its ID"},

	{texts: []string{"port is already allocated"}, class: core.ErrInUse, field: "Ports", remedy: otherPort},
	{texts: []string{"all ports are allocated"}, class: core.ErrInUse, field: "Ports", remedy: otherPort},
	{texts: []string{"address already in use"}, class: core.ErrInUse, field: "Ports", remedy: otherPort},
	{texts: []string{"cannot assign requested address"}, class: core.ErrInvalidConfig, field: "Ports", remedy: "Bind to an address that the host has"},

	{texts: []string{"no available ipv4 addresses"}, class: core.ErrInUse, field: "NetworkMode", remedy: "Remove containers from the network, or use a larger one"},

	{texts: []string{"could not delete stale containerd task"}, class: core.ErrInUse, remedy: "Remove the container and create another: its failed start left a process behind"},
	{texts: []string{"is already in use by container"}, class: core.ErrAlreadyExists, field: "Name", remedy: "Choose another name, or remove that container"},
	{texts: []string{"is not running"}, class: core.ErrNotRunning, remedy: "Start it first"},
	{texts: []string{"is using its referenced image"}, class: core.ErrInUse, remedy: "Remove that container first"},
	{texts: []string{"does not support signal"}, class: core.ErrInvalidConfig, field: "signal", remedy: "Choose from `kill -l`"},
	{is: errdefs.IsNotFound, texts: []string{"no such container"}, class: core.ErrNotFound, remedy: "List the containers that there are: this one was removed, or never existed"},
	{texts: []string{"pool overlaps with other one"}, class: core.ErrInUse, field: "Subnet", remedy: "Choose another subnet, or none"},
	{texts: []string{"network with name", "already exists"}, class: core.ErrAlreadyExists, field: "Name", remedy: "Choose another name, or remove that network"},
	{texts: []string{"has active endpoints"}, class: core.ErrInUse, remedy: "Stop the containers on it, or force the removal"},
	{is: errdefs.IsNotFound, texts: []string{"network "}, class: core.ErrNotFound, remedy: "Create the network, or choose bridge"},
	{is: errdefs.IsNotFound, texts: []string{"no such image"}, class: core.ErrNotFound, remedy: "Pull the image, or build it"},

	// Registries. A refusal comes before what the engine makes of it.
	{texts: []string{"toomanyrequests"}, class: core.ErrUnavailable, remedy: pullLater},
	{texts: []string{"429 too many requests"}, class: core.ErrUnavailable, remedy: pullLater},
	{is: isRegistryBroken, class: core.ErrUnavailable, remedy: registryBroken},
	{texts: []string{"no basic auth credentials"}, class: core.ErrUnavailable, remedy: logIn, refuses: anyLogin},
	{texts: []string{"repository does not exist"}, class: core.ErrNotFound, remedy: checkTag, refuses: imageOrAccess},
	{texts: []string{"insufficient_scope"}, class: core.ErrNotFound, remedy: checkTag, refuses: imageOrAccess},
	{is: errdefs.IsUnauthorized, texts: []string{fromRegistry}, class: core.ErrUnavailable, remedy: logIn, refuses: anyLogin},
	{is: errdefs.IsPermissionDenied, texts: []string{fromRegistry}, class: core.ErrUnavailable, remedy: logIn, refuses: access},
	{is: isAboutLogin, texts: []string{fromRegistry}, class: core.ErrUnavailable, remedy: logIn, refuses: anyLogin},
	{texts: []string{fromRegistry}, class: core.ErrUnavailable, remedy: logIn, refuses: access},
	{is: isForbidden, class: core.ErrUnavailable, remedy: logIn, refuses: access},
	{texts: []string{"401 unauthorized"}, class: core.ErrUnavailable, remedy: logIn, refuses: anyLogin},
	{texts: []string{"unauthorized: "}, class: core.ErrUnavailable, remedy: logIn, refuses: anyLogin},
	{is: errdefs.IsNotFound, texts: []string{"failed to resolve reference"}, class: core.ErrNotFound, remedy: checkTag},
	{is: endsNotFound, texts: []string{"failed to resolve "}, class: core.ErrNotFound, remedy: checkTag},
	{texts: []string{"manifest unknown"}, class: core.ErrNotFound, remedy: checkTag},
	{texts: []string{"failed to resolve reference"}, class: core.ErrUnavailable, remedy: askRegistry},
	{texts: []string{"failed to do request"}, class: core.ErrUnavailable, remedy: askRegistry},
	{texts: []string{"dial tcp"}, class: core.ErrUnavailable, remedy: askRegistry},
	{texts: []string{"short read: expected"}, class: core.ErrUnavailable, remedy: askRegistry},
	{texts: []string{`get "http`}, class: core.ErrUnavailable, remedy: askRegistry},

	{is: endsNotFound, class: core.ErrNotFound, remedy: checkTag}, // of BuildKit's, in Docker 20.10

	// What the engine's status codes mean, which is too coarse for the failures above.
	{is: errdefs.IsNotFound, class: core.ErrNotFound},
	{is: errdefs.IsInvalidArgument, class: core.ErrInvalidConfig},
	{is: errdefs.IsConflict, class: core.ErrInUse},
	{is: errdefs.IsNotImplemented, class: core.ErrUnsupported, remedy: "Upgrade the engine, if a newer one can do it"},
	{is: errdefs.IsUnavailable, class: core.ErrUnavailable, remedy: startEngine},
	{is: errdefs.IsUnauthorized, class: core.ErrUnavailable, remedy: askAccess},
	{is: errdefs.IsPermissionDenied, class: core.ErrUnavailable, remedy: askAccess},
}

// commandFailed are the builders' words for a command of a Dockerfile that has failed.
var commandFailed = lazily(`(?s)^(?:(?:process ".*" did not complete successfully|executor failed running \[.*\]|The command '.*' returned a non-zero code): ` +
	`|building at STEP "RUN .*": while running runtime: exit status )`)

func isCommandFailed(err error) bool { return commandFailed().MatchString(err.Error()) }

// fromRegistry precedes what newer engines quote of a registry that refuses.
const fromRegistry = "error from registry: "

// Words of registries, where nothing else tells what they mean.
var (
	aboutLogin = lazily(`(?i)username|password|unauthorized|authenticat|credential|token`)
	forbidden  = lazily(`(?i)\b403 forbidden|(^|: |\n)denied(: |$)`)
	broken     = lazily(`(?i)(unexpected http status|status code \[[^\]]*\]|unexpected status from \w+ request to \S+): 5\d\d `)
)

func isAboutLogin(err error) bool     { return aboutLogin().MatchString(err.Error()) }
func isForbidden(err error) bool      { return forbidden().MatchString(err.Error()) }
func isRegistryBroken(err error) bool { return broken().MatchString(err.Error()) }

// endsNotFound tells the failures of builders that come without a class.
func endsNotFound(err error) bool { return strings.HasSuffix(err.Error(), ": not found") }

// lazily compiles an expression when it is first needed, and not at the start of each process.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// isDeadline tells a deadline that is not the whole call's.
func isDeadline(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

// unreachable tells an engine that is down, refuses, or died in mid-call.
func unreachable(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return network || client.IsErrConnectionFailed(err) || errors.Is(err, errNoPing) ||
		errors.Is(err, io.ErrUnexpectedEOF)
}

// unpermitted tells a socket that this process may not use.
func unpermitted(err error) bool {
	return client.IsErrConnectionFailed(err) && errors.Is(err, fs.ErrPermission)
}

// isExecRefusal tells what the engine may have written in place of a program that it
// could not run beside a container's own.
func isExecRefusal(said []byte) bool {
	for _, sign := range []string{"OCI runtime exec failed: ", "unable to find user ", "unable to find group "} {
		if bytes.HasPrefix(said, []byte(sign)) {
			return true
		}
	}
	return false
}

// initRefusal are the words of runc's init that could not become a program.
var initRefusal = lazily(`^exec (/[^\n]*): (?:exec format error|no such file or directory|permission denied)\r?\n?$`)

// isInitRefusal tells what runc's init may have written in the program's place.
func isInitRefusal(said []byte) bool {
	return bytes.HasPrefix(said, []byte("exec /")) && bytes.HasSuffix(said, []byte("\n")) && initRefusal().Match(said)
}

// programOfInit returns the program that runc's init names.
func programOfInit(said string) (path string, ok bool) {
	match := initRefusal().FindStringSubmatch(said)
	if match == nil {
		return "", false
	}
	return match[1], true
}

// brokenOCIRuntime tells an engine without the OCI runtime that was asked for, or
// whose program does not work.
func brokenOCIRuntime(err error) bool {
	text := strings.ToLower(err.Error())
	for _, sign := range []string{"unable to retrieve oci runtime error", "unknown runtime specified", "unknown or invalid runtime name"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// noSuchImage tells an image that a pull might bring.
func noSuchImage(err error) bool {
	return errdefs.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "no such image")
}

// isAddressTaken tells the start of a container whose address on its network another
// has: of one that publishes no ports.
func isAddressTaken(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "address already in use")
}

// isNotConnected tells that a container to be disconnected is not on that network.
func isNotConnected(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "is not connected to")
}

// isStillborn tells the start of a container whose process ended before it became the
// program.
func isStillborn(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "cannot start a stopped process")
}

// isBeingRemoved tells the start of a container that somebody is removing.
func isBeingRemoved(err error) bool {
	return errdefs.IsConflict(err) && strings.Contains(strings.ToLower(err.Error()), "marked for removal")
}

// discardedLimit returns the field whose limit an engine's warning says that its
// kernel has not got, or "".
func discardedLimit(warning string) string {
	text := strings.ToLower(warning)
	switch {
	case !strings.Contains(text, "discarded"):
		return ""
	case strings.Contains(text, "memory limit"):
		return "MemoryMB"
	case strings.Contains(text, "pids limit"):
		return "PidsLimit"
	}
	return ""
}

// causedError is an error that also matches cause, with its own text only.
type causedError struct {
	error
	cause error
}

func (e *causedError) Unwrap() []error { return []error{e.error, e.cause} }
