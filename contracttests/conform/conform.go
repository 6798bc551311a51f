// Package conform makes programs that certify runtimes: they run the conformance suite without
// the go command, and bring the suite's images. An adapter's author writes one in a few lines:
//
//	func main() {
//		os.Exit(conform.Main(conform.Target{
//			Registration: detect.Registration{Name: "mine", Candidates: mine.Candidates},
//			Unsupported:  map[string]string{"RT-117": "the engine closes stdin together with the attachment"},
//			Load:         mine.LoadImage,
//		}))
//	}
//
// The cases get a testing.TB of this package's own, not one of package testing. Its functions
// that start tests (RunTests, MainStart) are for `go test`: they have no compatibility promise,
// read its flags, and cannot be interrupted. A case needs only the documented methods of a
// testing.TB; and since this one's context ends with the program's, an interrupted case still
// removes what it has created.
package conform

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
)

// The exit statuses of [Main].
const (
	StatusPassed      = 0   // all selected obligations hold, or are declared unsupported
	StatusFailed      = 1   // some do not
	StatusNoTest      = 2   // wrong arguments, or nothing could be tested
	StatusUntested    = 3   // none has failed, and some were not tested, or not completely
	StatusInterrupted = 130 // by a signal
)

// Target is a runtime that a program can certify.
type Target struct {
	// Registration has the runtime's name, and finds it: the first of its candidates that is
	// usable is tested.
	detect.Registration

	// Check refuses a runtime that answers, but is not the one that Unsupported is about.
	// nil: there is no other.
	Check func(ctx context.Context, rt core.Runtime) error

	// Unsupported maps the number of a case to the reason why the runtime does not support
	// it, as [contracttests.Options] has it.
	Unsupported map[string]string

	// Unreachable returns a runtime whose engine does not answer. nil: there is no engine
	// that could be down.
	Unreachable func() (core.Runtime, error)

	// OnHost returns a runtime that starts containers in the network of the engine's host, as
	// [contracttests.Harness] has it, by the endpoint of the candidate that is tested. nil:
	// the runtime itself does.
	OnHost func(endpoint string) (core.Runtime, error)

	// Load adds an image to the engine, from an archive as `docker save` writes it. nil: the
	// runtime has all of Images.
	Load func(ctx context.Context, rt core.Runtime, archive io.Reader) error

	// Images are those of [contracttests.Harness]. They are needed where Load is nil.
	Images Images
}

// Images are the references of the suite's images.
type Images struct{ Image, ConfigImage, PullImage, MissingImage, UnreachableImage string }

// Main runs the program with the process's arguments and returns its exit status. After
// SIGINT, SIGTERM or SIGHUP it returns once the running cases have removed their containers.
// A second signal kills the process at once.
//
// The program is also the agent of the images that it makes, when it is started under the
// name "agent". So it must be linked statically.
func Main(targets ...Target) int {
	if filepath.Base(os.Args[0]) == "agent" {
		actAsAgent()
	}
	signal.Ignore(syscall.SIGPIPE) // or containers would remain where nothing reads the output
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	defer context.AfterFunc(ctx, func() {
		stop() // the next signal ends the process
		fmt.Fprintln(os.Stderr, "interrupted: removing what the tests have created")
	})()
	return Run(ctx, os.Args[1:], os.Stdout, os.Stderr, targets...)
}

// Run is Main with arguments and streams of the caller's. It ends with ctx.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer, targets ...Target) int {
	status, err := run(ctx, args, stdout, stderr, targets)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", program, err)
	}
	if ctx.Err() != nil {
		return StatusInterrupted
	}
	return status
}

// program is the name in messages, which is not the process's: that may be a path.
const program = "moat-conform"

type options struct {
	runtime, run, agent, busybox, unprivileged string
	proxy                                      string
	registry, pullImage, missingImage          string
	list, json                                 bool
	parallel                                   int
}

func (o *options) parse(args []string, stderr io.Writer, names []string) error {
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "Certify a runtime with the conformance suite.\n\n  %s --runtime %s\n  %[1]s --runtime %s --run 'RT-1._'\n\n", program, names[0], names[len(names)-1])
		flags.PrintDefaults()
		fmt.Fprintf(stderr, "\nExit status: %d all obligations hold or are declared unsupported, %d some failed, %d nothing was tested,\n%d none failed and some were not tested, %d interrupted\n",
			StatusPassed, StatusFailed, StatusNoTest, StatusUntested, StatusInterrupted)
	}
	flags.StringVar(&o.runtime, "runtime", "", "`name` of the runtime: "+strings.Join(names, ", "))
	flags.StringVar(&o.run, "run", "", "run the cases whose names match this `regexp`, with _ for each blank, as go test -run does")
	flags.BoolVar(&o.list, "list", false, "list the cases instead of running them")
	flags.BoolVar(&o.json, "json", false, "print one JSON array of objects")
	flags.IntVar(&o.parallel, "parallel", runtime.GOMAXPROCS(0), "maximum `number` of cases at once; by default as many as Go uses CPUs")
	flags.StringVar(&o.agent, "agent", "", "`file` to put into the images as their agent: moat-conform, linked statically for the engine's architecture (default this program)")
	flags.StringVar(&o.busybox, "busybox", "", "`file` with a static BusyBox for the images (default the one in PATH)")
	flags.StringVar(&o.proxy, "proxy", "", "`file` with moat-proxy, linked statically for the engine's architecture, for restricted networks (default the one beside this program)")
	flags.StringVar(&o.registry, "registry", "127.0.0.1:0", "`address` on which this program serves the image to pull, or none to leave pulls untested")
	flags.StringVar(&o.pullImage, "pull-image", "", "`image` to pull from another registry, with the programs of the suite's images")
	flags.StringVar(&o.missingImage, "missing-image", "", "`image` that this other registry does not have")
	flags.StringVar(&o.unprivileged, "unprivileged", "", "`reason` why the engine's machine cannot start privileged containers, which are left untested then")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case (o.pullImage == "") != (o.missingImage == ""):
		return errors.New("--pull-image and --missing-image are of one registry: name both")
	case o.parallel < 1:
		return errors.New("--parallel must be 1 or more")
	}
	return nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer, targets []Target) (int, error) {
	var o options
	names := make([]string, len(targets))
	for i, target := range targets {
		names[i] = string(target.Name)
	}
	if err := o.parse(args, stderr, names); errors.Is(err, flag.ErrHelp) {
		return StatusPassed, nil
	} else if err != nil {
		return StatusNoTest, err
	}
	cases, err := selected(o.run)
	if err != nil {
		return StatusNoTest, err
	}
	if o.list {
		for _, c := range cases {
			fmt.Fprintln(stdout, c.Name())
		}
		return StatusPassed, nil
	}
	if o.runtime == "" && len(names) == 1 {
		o.runtime = names[0]
	}
	i := slices.Index(names, strings.ToLower(o.runtime))
	if i < 0 {
		return StatusNoTest, fmt.Errorf("--runtime %q: allowed are %s", o.runtime, strings.Join(names, ", "))
	}
	if problems := (contracttests.Options{Unsupported: targets[i].Unsupported}).Problems(); len(problems) > 0 {
		return StatusNoTest, errors.New(strings.Join(problems, "\n"))
	}
	s := &session{Target: targets[i], options: o, stderr: stderr}
	defer s.close()
	harness, err := s.prepare(ctx)
	if err != nil {
		return StatusNoTest, err
	}
	results := s.runAll(ctx, cases, harness)
	if err := report(stdout, s.Name, results, o.json); err != nil {
		return StatusFailed, err
	}
	return statusOf(results), nil
}

// selected returns the cases whose names match a pattern.
func selected(pattern string) ([]contracttests.Case, error) {
	matching, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("--run: %w", err)
	}
	cases := slices.DeleteFunc(contracttests.Cases(), func(c contracttests.Case) bool { return !matching.MatchString(testName(c)) })
	if len(cases) == 0 {
		return nil, fmt.Errorf("--run %q matches no case; --list shows all", pattern)
	}
	return cases, nil
}

// testName is a case's name as `go test` has it.
func testName(c contracttests.Case) string { return strings.ReplaceAll(c.Name(), " ", "_") }

// session is the test of one runtime.
type session struct {
	Target
	options
	stderr io.Writer

	candidate detect.Candidate
	cleanups  []func()
}

// close undoes what prepare did, the last first.
func (s *session) close() {
	for _, cleanup := range slices.Backward(s.cleanups) {
		cleanup()
	}
}

func (s *session) say(format string, args ...any) {
	fmt.Fprintf(s.stderr, program+": "+format+"\n", args...)
}

// askTimeout bounds the questions whether a candidate is usable. A proof of a sandbox starts a
// container.
const askTimeout = time.Minute

// choose finds the candidate to test.
func (s *session) choose(ctx context.Context) error {
	var failures []error
	for _, candidate := range s.Candidates() {
		err := s.try(ctx, candidate)
		if err == nil {
			s.candidate = candidate
			return nil
		}
		failures = append(failures, fmt.Errorf("%s %s: %w", s.Name, candidate.Endpoint, err))
	}
	return cmp.Or(errors.Join(failures...), fmt.Errorf("there is no %s on this machine", s.Name))
}

func (s *session) try(ctx context.Context, candidate detect.Candidate) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	rt, err := candidate.New()
	if err != nil {
		return err
	}
	defer func() { _ = rt.Close() }()
	if err := rt.Ping(ctx); err != nil {
		return err
	}
	if s.Check != nil {
		if err := s.Check(ctx, rt); err != nil {
			return err
		}
	}
	if verifier, ok := core.As[optional.Verifier](rt); ok {
		return verifier.Verify(ctx)
	}
	return nil
}

// prepare finds the runtime and gives it the suite's images.
func (s *session) prepare(ctx context.Context) (contracttests.Harness, error) {
	if err := s.choose(ctx); err != nil {
		return contracttests.Harness{}, err
	}
	rt, err := s.candidate.New()
	if err != nil {
		return contracttests.Harness{}, err
	}
	s.cleanups = append(s.cleanups, func() { _ = rt.Close() })
	for _, object := range contracttests.Leftovers(ctx, rt) {
		s.say("left over from another run, which may still be going on: %s", object)
	}
	images := s.Images
	if s.Load != nil {
		if images, err = s.load(ctx, rt); err != nil {
			return contracttests.Harness{}, err
		}
	}
	s.say("testing %s %s with the image %s", s.Name, s.candidate.Endpoint, images.Image)
	harness := contracttests.Harness{
		Name:  string(s.Name),
		New:   func(t testing.TB) core.Runtime { return opened(t, s.candidate.New) },
		Image: images.Image, ConfigImage: images.ConfigImage,
		PullImage: images.PullImage, MissingImage: images.MissingImage, UnreachableImage: images.UnreachableImage,
		Unprivileged: func() string { return s.unprivileged },
	}
	if harness.EgressProxy, err = s.readProxy(); err != nil {
		return contracttests.Harness{}, err
	}
	if s.OnHost != nil {
		harness.OnHost = func(t testing.TB) core.Runtime {
			return opened(t, func() (core.Runtime, error) { return s.OnHost(s.candidate.Endpoint) })
		}
	}
	if s.Unreachable != nil {
		harness.Unreachable = func(t testing.TB) core.Runtime { return opened(t, s.Unreachable) }
	}
	return harness, nil
}

func opened(t testing.TB, construct func() (core.Runtime, error)) core.Runtime {
	rt, err := construct()
	if err != nil {
		t.Fatal(err)
	}
	return rt
}
