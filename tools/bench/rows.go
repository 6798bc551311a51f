package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func rows() []row {
	return []row{
		{"ping", ping},
		{"inspect", inspect},
		{"list", list},
		{"images", images},
		{"list of 500 containers", listMany},
		{"lifecycle, engine that answers at once", adapterAlone},
		{"lifecycle, runc", lifecycle("runc")},
		{"lifecycle, runsc", lifecycle("runsc")},
		{"1 run at once", parallel(1)},
		{"8 runs at once", parallel(8)},
		{"32 runs at once", parallel(32)},
		{"log follow, engine that answers at once", logsAlone},
		{"log follow", logFollow},
		{"attach, echo", attachEcho},
		{"attach, output", attachOutput},
		{"demultiplex 1 KiB frames", demultiplex("1KiB", func(moat, _ float64) (string, string, bool) {
			return fmt.Sprintf("%.1f GB/s", moat/1000), "≥ 1 GB/s", moat >= 1000
		})},
		{"demultiplex 64 B frames", demultiplex("64B", func(moat, stdcopy float64) (string, string, bool) {
			return fmt.Sprintf("%.1f ×", moat/stdcopy), "≥ 5 ×", moat >= 5*stdcopy
		})},
		{"moat --version", cliStart},
		{"moat ps", cliList},
		{"moat attach, echo", cliEcho},
		{"moat attach, output", cliOutput},
		{"moat run -i", cliPipe},
		{"moat run, engine that answers at once", cliAlone},
		{"moat run --no-sandbox", cliRun("runc")},
		{"moat run", cliRun("runsc")},
		{"moat run --service redis", cliService},
		{"moat run --egress", cliEgress},
		{"egress proxy, body", egressBody},
		{"egress proxy, tunnels", egressRate},
		{"egress proxy, first byte", egressLatency},
		{"egress proxy, memory", egressMemory},
	}
}

const (
	callGate       = 50 * time.Microsecond
	allocationGate = 60
	cliGate        = 15 * time.Millisecond
	egressGate     = 150 * time.Millisecond
)

// call is a row for one call, with its allocations.
func call(b *bench, moat, raw func() error) (result, error) {
	times, err := b.inTurns(2000, moat, raw)
	if err != nil {
		return result{}, err
	}
	found := atMost(times[0], times[1], "raw API", callGate)
	more := allocations(moat) - allocations(raw)
	found.compared += fmt.Sprintf(", %+d allocations", more)
	found.gate += fmt.Sprintf(", +%d", allocationGate)
	found.met = max(found.met, verdictOf(more <= allocationGate))
	return found, nil
}

// allocations counts a call's, with those of its transport.
func allocations(call func() error) int {
	const calls = 50
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range calls {
		_ = call()
	}
	runtime.ReadMemStats(&after)
	return int(after.Mallocs-before.Mallocs) / calls
}

func ping(ctx context.Context, b *bench) (result, error) {
	return call(b,
		func() error { return b.plain.Ping(ctx) },
		func() error { return b.raw.do(ctx, http.MethodHead, "/_ping", nil, nil) })
}

func inspect(ctx context.Context, b *bench) (found result, err error) {
	id, err := b.plain.CreateContainer(ctx, b.config("true"))
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, b.plain.RemoveContainer(ctx, id)) }()
	return call(b,
		func() error { _, err := b.plain.ContainerState(ctx, id); return err },
		func() error {
			return b.raw.do(ctx, http.MethodGet, "/containers/"+id+"/json", nil, new(container.InspectResponse))
		})
}

func moatList(ctx context.Context, rt core.Runtime) error {
	_, err := rt.ListContainers(ctx)
	return err
}

func rawList(ctx context.Context, b *bench) error {
	return b.raw.do(ctx, http.MethodGet, "/containers/json?all=1", nil, new([]container.Summary))
}

func list(ctx context.Context, b *bench) (result, error) {
	return call(b, func() error { return moatList(ctx, b.plain) }, func() error { return rawList(ctx, b) })
}

func images(ctx context.Context, b *bench) (result, error) {
	return call(b,
		func() error { _, err := b.plain.ListImages(ctx); return err },
		func() error { return b.raw.do(ctx, http.MethodGet, "/images/json", nil, new([]image.Summary)) })
}

// listMany counts the requests: the time of so long a list is its decoding.
func listMany(ctx context.Context, b *bench) (found result, err error) {
	var ids []string
	defer func() {
		for _, id := range ids {
			err = errors.Join(err, b.plain.RemoveContainer(ctx, id))
		}
	}()
	for range b.rounds(500) {
		id, err := b.plain.CreateContainer(ctx, b.config("true"))
		if err = errors.Join(err, b.interrupted.Err()); err != nil {
			return result{}, err
		}
		ids = append(ids, id)
	}
	times, err := b.inTurns(50, func() error { return moatList(ctx, b.plain) }, func() error { return rawList(ctx, b) })
	if err != nil {
		return result{}, err
	}
	requests, err := b.requests(ctx, "runc", func(rt core.Runtime) error { return moatList(ctx, rt) })
	if err != nil {
		return result{}, err
	}
	found = asFast(times[0], times[1], "raw API", "lists", 1)
	return found.withRequests(requests, 1), nil
}

// withRequests adds how many requests both sides make, which may not be more on Moat's.
func (r result) withRequests(moat, raw int) result {
	r.compared += fmt.Sprintf(", %d requests of %d", moat, raw)
	r.gate += fmt.Sprintf(", %d", raw)
	r.met = max(r.met, verdictOf(moat <= raw))
	return r
}

// and adds a comparison of the same with another side, whose gate has a shorter name.
func (r result) and(other result, gate string) result {
	r.beside += ", " + other.beside
	r.compared += ", " + other.compared
	r.gate += ", " + gate
	r.met = max(r.met, other.met)
	return r
}

// adapterAlone leaves the engine's own time out, whose spread hides what the adapter adds.
func adapterAlone(ctx context.Context, b *bench) (found result, err error) {
	err = answeredAtOnce(nil, func(host string) error {
		rt, err := newRuntime("runc", host)
		if err != nil {
			return err
		}
		raw := newRawClient(host)
		times, err := b.inTurns(1000,
			func() error { return life(ctx, rt, b.config("true")) },
			func() error { return raw.life(ctx, nil, nil, nil) })
		if err = errors.Join(err, rt.Close()); err != nil {
			return err
		}
		found = atMost(times[0], times[1], "raw API", time.Millisecond)
		return nil
	})
	return found, err
}

// cliAlone is the same for a whole process.
func cliAlone(ctx context.Context, b *bench) (found result, err error) {
	err = answeredAtOnce(nil, func(host string) error {
		before := *b
		before.host = host
		raw := newRawClient(host)
		times, err := b.inTurns(100,
			before.command(ctx, b.moat(), "--no-sandbox", "run", "--rm", testImage, "true"),
			func() error { return raw.run(ctx, nil) })
		if err != nil {
			return err
		}
		found = atMost(times[0], times[1], "raw API", cliGate)
		return nil
	})
	return found, err
}

func lifecycle(oci string) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		body, err := b.createBody(ctx, oci)
		if err != nil {
			return result{}, err
		}
		moat := func(rt core.Runtime) error { return life(ctx, rt, b.config("true")) }
		times, err := b.inTurns(30,
			func() error { return moat(b.runtime(oci)) },
			func() error { return b.raw.life(ctx, body, nil, nil) })
		if err != nil {
			return result{}, err
		}
		requests, err := b.requests(ctx, oci, moat)
		if err != nil {
			return result{}, err
		}
		var raw int
		err = b.recorded(func(r *recorder) error {
			err := newRawClient(r.host).life(ctx, body, nil, nil)
			raw = len(r.take())
			return err
		})
		return atMost(times[0], times[1], "raw API", time.Millisecond).withRequests(requests, raw), err
	}
}

// parallel compares how many containers get through.
func parallel(n int) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		body, err := b.createBody(ctx, "runc")
		if err != nil {
			return result{}, err
		}
		atOnce := func(one func() error) func() error {
			return func() error {
				errs := make([]error, n)
				var all sync.WaitGroup
				for i := range errs {
					all.Go(func() { errs[i] = one() })
				}
				all.Wait()
				return errors.Join(errs...)
			}
		}
		times, err := b.inTurns(10,
			atOnce(func() error { return life(ctx, b.plain, b.config("true")) }),
			atOnce(func() error { return b.raw.life(ctx, body, nil, nil) }))
		if err != nil {
			return result{}, err
		}
		return asFast(times[0], times[1], "raw API", "runs", float64(n)), nil
	}
}

const line = "a line of an ordinary length, as programs write them\n"

func logFollow(ctx context.Context, b *bench) (found result, err error) {
	const size = 2 << 20
	id, err := b.plain.CreateContainer(ctx, b.config("sh", "-c", fmt.Sprintf("yes '%s' | head -c %d", strings.TrimSpace(line), size)))
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, b.plain.RemoveContainer(ctx, id)) }()
	if err := b.plain.StartContainer(ctx, id); err != nil {
		return result{}, err
	}
	if _, err := b.plain.WaitContainer(ctx, id); err != nil {
		return result{}, err
	}
	return b.follow(ctx, b.plain, b.raw, id, size)
}

// logsAlone leaves the engine's log driver out.
func logsAlone(ctx context.Context, b *bench) (found result, err error) {
	const lines = 1 << 20
	var frames bytes.Buffer
	stdout := stdcopy.NewStdWriter(&frames, stdcopy.Stdout)
	for range lines {
		_, _ = io.WriteString(stdout, line)
	}
	err = answeredAtOnce(frames.Bytes(), func(host string) error {
		rt, err := newRuntime("runc", host)
		if err != nil {
			return err
		}
		id, err := rt.CreateContainer(ctx, b.config("true"))
		if err != nil {
			return err
		}
		if err := rt.StartContainer(ctx, id); err != nil {
			return err
		}
		found, err = b.follow(ctx, rt, newRawClient(host), id, lines*len(line))
		return errors.Join(err, rt.Close())
	})
	return found, err
}

// follow compares how fast size bytes of a container's output come.
func (b *bench) follow(ctx context.Context, rt optional.LogStreamer, raw *rawClient, id string, size int) (result, error) {
	times, err := b.inTurns(20,
		func() error {
			return rt.StreamLogs(ctx, id, optional.LogOptions{Follow: true, Stdout: io.Discard, Stderr: io.Discard})
		},
		func() error {
			return raw.logs(ctx, id, func(body io.Reader) error { _, err := io.Copy(io.Discard, body); return err })
		},
		func() error {
			return raw.logs(ctx, id, func(body io.Reader) error { _, err := stdcopy.StdCopy(io.Discard, io.Discard, body); return err })
		})
	if err != nil {
		return result{}, err
	}
	megabytes := float64(size) / 1e6
	found := asFast(times[0], times[1], "raw API", "MB", megabytes)
	found.beside += ", " + rate(times[2], "MB", megabytes) + " with stdcopy"
	return found, nil
}

var benchmarkLine = regexp.MustCompile(`BenchmarkDemultiplex/(\w+)/(\w+)\S*\s.*\s([\d.]+) MB/s`)

// demultiplex takes its figures from a benchmark of the adapter's, whose demultiplexer
// is not exported.
func demultiplex(frames string, judge func(moat, stdcopy float64) (string, string, bool)) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, _ *bench) (result, error) {
		command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkDemultiplex/"+frames+"$/(copy|stdcopy)", "-count", "3", "-benchtime", "0.3s", ".")
		command.Dir = "../adapters/docker"
		out, err := command.CombinedOutput()
		if err != nil {
			return result{}, fmt.Errorf("%w: %s", err, out)
		}
		speeds := map[string][]float64{}
		for _, match := range benchmarkLine.FindAllStringSubmatch(string(out), -1) {
			speed, err := strconv.ParseFloat(match[3], 64)
			if err != nil {
				return result{}, err
			}
			speeds[match[2]] = append(speeds[match[2]], speed)
		}
		if len(speeds["copy"]) == 0 || len(speeds["stdcopy"]) == 0 {
			return result{}, fmt.Errorf("the benchmark printed no speeds: %s", out)
		}
		moat, stdcopy := median(speeds["copy"]), median(speeds["stdcopy"])
		compared, gate, met := judge(moat, stdcopy)
		return result{fmt.Sprintf("%.0f MB/s", moat), fmt.Sprintf("%.0f MB/s stdcopy", stdcopy), compared, gate, verdictOf(met)}, nil
	}
}

// command returns a run of a program to its successful end.
func (b *bench) command(ctx context.Context, name string, args ...string) func() error {
	return b.piped(ctx, nil, name, args...)
}

// piped is command with an input.
func (b *bench) piped(ctx context.Context, input []byte, name string, args ...string) func() error {
	return func() error {
		command := b.process(ctx, name, args...)
		command.Stdin = bytes.NewReader(input)
		var output bytes.Buffer
		command.Stdout, command.Stderr = &output, &output
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, output.String())
		}
		return nil
	}
}

func (b *bench) process(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                                                // a terminal's signals are for this process
	command.Env = append(os.Environ(), "DOCKER_HOST="+b.host, "XDG_CACHE_HOME="+b.cache, "MOAT_EGRESS=open") // docker's network
	return command
}

func (b *bench) moat() string { return filepath.Join(b.bin, "moat") }

func cliStart(ctx context.Context, b *bench) (result, error) {
	times, err := b.inTurns(100, b.command(ctx, b.moat(), "--version"), b.command(ctx, "docker", "--version"))
	if err != nil {
		return result{}, err
	}
	moat, docker := median(times[0]), median(times[1])
	return result{
		moat: short(moat), beside: short(docker) + " docker", compared: fmt.Sprintf("%.2f ×", float64(moat)/float64(docker)),
		gate: "< 10 ms", met: verdictOf(moat < 10*time.Millisecond),
	}, nil
}

// cliPipe sends much through a container and back, beside docker.
func cliPipe(ctx context.Context, b *bench) (result, error) {
	const size = 32_000_000
	input := make([]byte, size)
	times, err := b.inTurns(10,
		b.piped(ctx, input, b.moat(), "--no-sandbox", "run", "--rm", "-i", testImage, "cat"),
		b.piped(ctx, input, "docker", "run", "--rm", "-i", testImage, "cat"))
	if err != nil {
		return result{}, err
	}
	return asFast(times[0], times[1], "docker", "MB", size/1e6), nil
}

func cliList(ctx context.Context, b *bench) (result, error) {
	args := []string{"--no-sandbox", "ps"}
	times, err := b.inTurns(100, b.command(ctx, b.moat(), args...), func() error { return rawList(ctx, b) })
	if err != nil {
		return result{}, err
	}
	requests, err := b.cliRequests(ctx, args)
	if err != nil {
		return result{}, err
	}
	return atMost(times[0], times[1], "raw API", 10*time.Millisecond).withRequests(requests, 2), nil // ping, list
}

// cliRequests counts the requests of a command of moat.
func (b *bench) cliRequests(ctx context.Context, args []string) (made int, err error) {
	err = b.recorded(func(r *recorder) error {
		through := *b
		through.host = r.host
		run := through.command(ctx, b.moat(), args...)
		if err := run(); err != nil { // which finds out about the engine
			return err
		}
		r.take()
		err := run()
		made = len(r.take())
		return err
	})
	return made, err
}

// cliRun compares a whole process with the requests that it takes, and with docker's.
func cliRun(oci string) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		body, err := b.createBody(ctx, oci)
		if err != nil {
			return result{}, err
		}
		raw := func() error { return b.raw.run(ctx, body) }
		run := []string{"run", "--rm", "--label", label + "=" + b.runID}
		args := append(slices.Clone(run), testImage, "true")
		if oci == "runc" {
			args = append([]string{"--no-sandbox"}, args...)
		}
		moat := b.command(ctx, b.moat(), args...)
		if err := moat(); err != nil { // a sandbox is proven once a day
			return result{}, err
		}
		times, err := b.inTurns(15, moat, raw,
			b.command(ctx, "docker", append(run, "--runtime", oci, testImage, "true")...))
		if err != nil {
			return result{}, err
		}
		requests, err := b.cliRequests(ctx, args)
		if err != nil {
			return result{}, err
		}
		found := atMost(times[0], times[1], "raw API", cliGate).and(atMost(times[0], times[2], "docker run", 0), "< docker run")
		return found.withRequests(requests, 6), nil // ping, create, start, logs, wait, remove
	}
}

// cliEgress compares a run with restricted egress with the same run on a network that is
// there.
func cliEgress(ctx context.Context, b *bench) (found result, err error) {
	network := "moat-bench-egress-" + b.runID
	if err := b.command(ctx, "docker", "network", "create", "--label", label+"="+b.runID, network)(); err != nil {
		return found, err
	}
	defer func() {
		err = errors.Join(err, b.command(context.WithoutCancel(ctx), "docker", "network", "rm", network)())
	}()
	run := func(flag, value string) func() error {
		return b.command(ctx, b.moat(), "--no-sandbox", "run", "--rm", "--label", label+"="+b.runID, flag, value, testImage, "true")
	}
	restricted := run("--egress", "example.com")
	if err := restricted(); err != nil { // which loads the proxy's image
		return found, err
	}
	times, err := b.inTurns(15, restricted, run("--network", network))
	if err != nil {
		return found, err
	}
	return atMost(times[0], times[1], "on a network", egressGate), nil
}
