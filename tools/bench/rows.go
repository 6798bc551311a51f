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
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/core"
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
		{"log follow", logFollow},
		{"demultiplex 1 KiB frames", demultiplex("1KiB", func(moat, _ float64) (string, string, bool) {
			return fmt.Sprintf("%.1f GB/s", moat/1000), "≥ 1 GB/s", moat >= 1000
		})},
		{"demultiplex 64 B frames", demultiplex("64B", func(moat, stdcopy float64) (string, string, bool) {
			return fmt.Sprintf("%.1f ×", moat/stdcopy), "≥ 5 ×", moat >= 5*stdcopy
		})},
		{"moat --version", cliStart},
		{"moat ps", cliList},
		{"moat run --no-sandbox", cliRun("runc")},
		{"moat run", cliRun("runsc")},
	}
}

const (
	callGate       = 50 * time.Microsecond
	allocationGate = 60
)

// call is a row for one call, with its allocations.
func call(ctx context.Context, b *bench, moat, raw func() error) (result, error) {
	times, err := b.inTurns(ctx, 2000, moat, raw)
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
	return call(ctx, b,
		func() error { return b.plain.Ping(ctx) },
		func() error { return b.raw.do(ctx, http.MethodHead, "/_ping", nil, nil) })
}

func inspect(ctx context.Context, b *bench) (found result, err error) {
	id, err := b.plain.CreateContainer(ctx, b.config("true"))
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, b.plain.RemoveContainer(ctx, id)) }()
	return call(ctx, b,
		func() error { _, err := b.plain.ContainerState(ctx, id); return err },
		func() error {
			return b.raw.do(ctx, http.MethodGet, "/containers/"+id+"/json", nil, new(container.InspectResponse))
		})
}

func rawList(ctx context.Context, b *bench) func() error {
	return func() error {
		return b.raw.do(ctx, http.MethodGet, "/containers/json?all=1", nil, new([]container.Summary))
	}
}

func moatList(ctx context.Context, b *bench) func() error {
	return func() error { _, err := b.plain.ListContainers(ctx); return err }
}

func list(ctx context.Context, b *bench) (result, error) {
	return call(ctx, b, moatList(ctx, b), rawList(ctx, b))
}

func images(ctx context.Context, b *bench) (result, error) {
	return call(ctx, b,
		func() error { _, err := b.plain.ListImages(ctx); return err },
		func() error { return b.raw.do(ctx, http.MethodGet, "/images/json", nil, new([]image.Summary)) })
}

// listMany counts the requests: the time of so long a list is its decoding.
func listMany(ctx context.Context, b *bench) (found result, err error) {
	var ids []string
	defer func() {
		for _, id := range ids {
			err = errors.Join(err, b.plain.RemoveContainer(context.WithoutCancel(ctx), id))
		}
	}()
	for range b.rounds(500) {
		id, err := b.plain.CreateContainer(ctx, b.config("true"))
		if err != nil {
			return result{}, err
		}
		ids = append(ids, id)
	}
	times, err := b.inTurns(ctx, 50, moatList(ctx, b), rawList(ctx, b))
	if err != nil {
		return result{}, err
	}
	requests, err := b.requests(ctx, moatList)
	if err != nil {
		return result{}, err
	}
	moat, raw := median(times[0]), median(times[1])
	return result{
		moat: fmt.Sprintf("%s, %d request", short(moat), len(requests)), beside: short(raw) + " raw API",
		compared: fmt.Sprintf("%.2f ×", float64(moat)/float64(raw)), gate: "1 request, ≤ 1.05 ×",
		met: verdictOf(len(requests) == 1 && float64(moat) <= 1.05*float64(raw)),
	}, nil
}

// requests returns what a call makes of requests.
func (b *bench) requests(ctx context.Context, calls func(context.Context, *bench) func() error) (made []string, err error) {
	r, err := b.record()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	recorded := *b
	if recorded.plain, err = docker.New(docker.Options{Host: r.host}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, recorded.plain.Close()) }()
	if err := calls(ctx, &recorded)(); err != nil {
		return nil, err
	}
	return r.take(), nil
}

// adapterAlone leaves the engine's own time out, whose spread hides what the adapter adds.
func adapterAlone(ctx context.Context, b *bench) (found result, err error) {
	host, stop, err := answerAtOnce()
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	rt, err := docker.New(docker.Options{Host: host})
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	raw := newRawClient(host)
	times, err := b.inTurns(ctx, 1000,
		func() error { return life(ctx, rt, b.config("true")) },
		func() error { return raw.life(ctx, nil) })
	if err != nil {
		return result{}, err
	}
	return atMost(times[0], times[1], "raw API", time.Millisecond), nil
}

func lifecycle(oci string) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		body, err := b.createBody(ctx, b.config("true"), oci)
		if err != nil {
			return result{}, err
		}
		moat := func(ctx context.Context, b *bench) func() error {
			return func() error { return life(ctx, b.runtime(oci), b.config("true")) }
		}
		times, err := b.inTurns(ctx, 15, moat(ctx, b), func() error { return b.raw.life(ctx, body) })
		if err != nil {
			return result{}, err
		}
		found := atMost(times[0], times[1], "raw API", time.Millisecond)
		if oci == "runc" {
			requests, err := b.requests(ctx, moat)
			if err != nil {
				return result{}, err
			}
			found.compared += fmt.Sprintf(", %d requests of 4", len(requests))
			found.met = max(found.met, verdictOf(len(requests) <= 4))
		}
		return found, nil
	}
}

// parallel compares how many containers get through.
func parallel(n int) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		body, err := b.createBody(ctx, b.config("true"), "runc")
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
		times, err := b.inTurns(ctx, max(16/n, 3),
			atOnce(func() error { return life(ctx, b.plain, b.config("true")) }),
			atOnce(func() error { return b.raw.life(ctx, body) }))
		if err != nil {
			return result{}, err
		}
		rate := func(times []time.Duration) float64 { return float64(n) / median(times).Seconds() }
		moat, raw := rate(times[0]), rate(times[1])
		return result{
			moat: fmt.Sprintf("%.1f /s", moat), beside: fmt.Sprintf("%.1f /s raw API", raw),
			compared: fmt.Sprintf("%.2f ×", moat/raw), gate: "≥ 0.95 ×", met: verdictOf(moat >= 0.95*raw),
		}, nil
	}
}

func logFollow(ctx context.Context, b *bench) (found result, err error) {
	const size = 2 << 20
	id, err := b.plain.CreateContainer(ctx, b.config("sh", "-c", fmt.Sprintf("yes 'a line of an ordinary length, as programs write them' | head -c %d", size)))
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, b.plain.RemoveContainer(context.WithoutCancel(ctx), id)) }()
	if err := b.plain.StartContainer(ctx, id); err != nil {
		return result{}, err
	}
	if _, err := b.plain.WaitContainer(ctx, id); err != nil {
		return result{}, err
	}
	raw := func(read func(io.Reader) error) func() error {
		return func() error {
			response, err := b.raw.send(ctx, http.MethodGet, "/containers/"+id+"/logs?stdout=1&stderr=1&follow=1", nil)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			return read(response.Body)
		}
	}
	times, err := b.inTurns(ctx, 10,
		func() error {
			return b.plain.StreamLogs(ctx, id, core.LogOptions{Follow: true, Stdout: io.Discard, Stderr: io.Discard})
		},
		raw(func(body io.Reader) error { _, err := io.Copy(io.Discard, body); return err }),
		raw(func(body io.Reader) error { _, err := stdcopy.StdCopy(io.Discard, io.Discard, body); return err }))
	if err != nil {
		return result{}, err
	}
	speed := func(times []time.Duration) float64 { return size / 1e6 / median(times).Seconds() }
	moat, bytes := speed(times[0]), speed(times[1])
	return result{
		moat: fmt.Sprintf("%.1f MB/s", moat), beside: fmt.Sprintf("%.1f MB/s raw API, %.1f with stdcopy", bytes, speed(times[2])),
		compared: fmt.Sprintf("%.2f ×", moat/bytes), gate: "≥ 0.95 ×", met: verdictOf(moat >= 0.95*bytes),
	}, nil
}

var benchmarkLine = regexp.MustCompile(`BenchmarkDemultiplex/(\w+)/(\w+)\S*\s.*\s([\d.]+) MB/s`)

// demultiplex takes its figures from a benchmark of the adapter's, whose demultiplexer
// is not exported.
func demultiplex(frames string, judge func(moat, stdcopy float64) (string, string, bool)) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, _ *bench) (result, error) {
		command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkDemultiplex/"+frames+"$/(copy|stdcopy)", "-count", "3", ".")
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
	return func() error {
		command := exec.CommandContext(ctx, name, args...)
		command.Env = append(os.Environ(), "DOCKER_HOST="+b.host)
		var output bytes.Buffer
		command.Stdout, command.Stderr = &output, &output
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, output.String())
		}
		return nil
	}
}

func (b *bench) moat() string { return filepath.Join(b.bin, "moat") }

func cliStart(ctx context.Context, b *bench) (result, error) {
	times, err := b.inTurns(ctx, 100, b.command(ctx, b.moat(), "--version"), b.command(ctx, "docker", "--version"))
	if err != nil {
		return result{}, err
	}
	moat, docker := median(times[0]), median(times[1])
	return result{
		moat: short(moat), beside: short(docker) + " docker", compared: fmt.Sprintf("%.2f ×", float64(moat)/float64(docker)),
		gate: "< 10 ms", met: verdictOf(moat < 10*time.Millisecond),
	}, nil
}

func cliList(ctx context.Context, b *bench) (result, error) {
	times, err := b.inTurns(ctx, 100, b.command(ctx, b.moat(), "ps", "--no-sandbox"), rawList(ctx, b))
	if err != nil {
		return result{}, err
	}
	return atMost(times[0], times[1], "raw API", 10*time.Millisecond), nil
}

// cliRun compares a whole process with the requests that it takes, and with docker's.
func cliRun(oci string) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		body, err := b.createBody(ctx, b.config("true"), oci)
		if err != nil {
			return result{}, err
		}
		raw := func() error {
			id, err := b.raw.create(ctx, body)
			if err != nil {
				return err
			}
			return errors.Join(
				b.raw.do(ctx, http.MethodHead, "/_ping", nil, nil), b.raw.start(ctx, id),
				b.raw.do(ctx, http.MethodGet, "/containers/"+id+"/logs?stdout=1&stderr=1&follow=1", nil, nil),
				b.raw.wait(ctx, id), b.raw.remove(ctx, id))
		}
		args := []string{"run", "--rm", testImage, "true"}
		if oci == "runc" {
			args = append([]string{"--no-sandbox"}, args...)
		}
		times, err := b.inTurns(ctx, 15, b.command(ctx, b.moat(), args...), raw,
			b.command(ctx, "docker", "run", "--rm", "--runtime", oci, testImage, "true"))
		if err != nil {
			return result{}, err
		}
		found := atMost(times[0], times[1], "raw API", 15*time.Millisecond)
		dockers := atMost(times[0], times[2], "docker run", 0)
		found.beside += ", " + dockers.beside
		found.compared += ", " + dockers.compared
		found.gate += ", < docker run"
		found.met = max(found.met, dockers.met)
		return found, nil
	}
}
