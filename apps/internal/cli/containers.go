package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
	"github.com/spf13/cobra"
)

func (a *app) psCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List containers that Moat manages",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, a, func(ctx context.Context, containers core.Lifecycle) error {
				infos, err := containers.ListContainers(ctx)
				if err != nil {
					return err
				}
				return a.printContainers(selectShown(infos, all))
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also list containers that do not run")
	a.jsonFlag(cmd)
	return cmd
}

func selectShown(infos []core.Info, all bool) []core.Info {
	var shown []core.Info
	for _, info := range infos {
		isHelper := info.Labels[core.LabelRole] == core.RoleAdapter
		if all || (run.IsRunning(info.Status) && !isHelper) {
			shown = append(shown, info)
		}
	}
	return shown
}

func (a *app) printContainers(infos []core.Info) error {
	if a.json {
		return printJSON(a.env.Stdout, infos)
	}
	rows := make([][]string, len(infos))
	for i, info := range infos {
		rows[i] = []string{shortID(info.ID), info.Name, info.Image, info.Status, ago(info.Created), portList(info.Published)}
	}
	return printTable(a.env.Stdout, []string{"CONTAINER ID", "NAME", "IMAGE", "STATUS", "CREATED", "PORTS"}, rows)
}

// portList writes ports as Docker does.
func portList(ports []core.PortMapping) string {
	var all []string
	for _, port := range ports {
		host := net.JoinHostPort(port.HostIP, strconv.Itoa(port.HostPort))
		all = append(all, fmt.Sprintf("%s->%d/%s", host, port.ContainerPort, port.Protocol))
	}
	return strings.Join(all, ", ")
}

// inspected is what `moat inspect` tells of a container.
type inspected struct {
	optional.Details
	Evidence *optional.EgressEvidence `json:"evidence,omitempty"` // of a run with restricted egress
}

func (a *app) inspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect CONTAINER...",
		Short: "Show a container's details as JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				var all []inspected
				err := forEach(ctx, engine, args,
					func(info core.Info) (found inspected, err error) {
						if info.Labels[core.LabelRole] == core.RoleMain {
							found.Evidence, err = a.store(engine).Evidence(info.Labels[core.LabelRunID])
						}
						if err == nil {
							found.Details, err = inspect(ctx, engine, info)
						}
						return found, err
					},
					func(_ core.Info, found inspected) error { all = append(all, found); return nil })
				return errors.Join(printJSON(a.env.Stdout, all), err)
			})
		},
	}
	a.jsonFlag(cmd)
	_ = cmd.Flags().MarkHidden("json") // the output is always JSON
	return cmd
}

func (a *app) logsCommand() *cobra.Command {
	var options optional.LogOptions
	var tail string
	cmd := &cobra.Command{
		Use:   "logs CONTAINER",
		Short: "Show a container's output",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if options.Tail, err = parseTail(tail); err != nil {
				return err
			}
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				return a.logs(ctx, engine, args[0], options)
			})
		},
	}
	cmd.Flags().BoolVarP(&options.Follow, "follow", "f", false, "follow the output until the container exits")
	cmd.Flags().StringVarP(&tail, "tail", "n", "all", "show only the last `N` lines")
	cmd.Flags().BoolVar(&a.json, "json", false, "print one JSON array with an object for each line")
	return cmd
}

func parseTail(value string) (int, error) {
	if value == "all" {
		return 0, nil
	}
	var lines int
	if _, err := fmt.Sscanf(value+"\n", "%d\n", &lines); err != nil || lines < 1 {
		return 0, fmt.Errorf("--tail %q: want a number above 0, or all", value)
	}
	return lines, nil
}

func (a *app) logs(ctx context.Context, engine *wiring.Engine, name string, options optional.LogOptions) error {
	streamer, ok := core.As[optional.LogStreamer](engine)
	if !ok {
		return &core.Error{Op: "read logs", Runtime: engine.Type(), Class: core.ErrUnsupported}
	}
	info, err := resolveOne(ctx, engine, name)
	if err != nil {
		return err
	}
	options.Stdout, options.Stderr = a.env.Stdout, a.env.Stderr
	finish := func() error { return nil }
	if a.json {
		rows := &jsonRows{out: a.env.Stdout}
		lines := &lineSplitter{add: func(stream, line string) error { return rows.add(lineRow{stream, line}) }}
		options.Stdout, options.Stderr = lines.stream("stdout"), lines.stream("stderr")
		finish = func() error { return errors.Join(lines.finish(), rows.finish()) }
	}
	return errors.Join(streamer.StreamLogs(ctx, info.ID, options), finish())
}

func (a *app) waitCommand() *cobra.Command {
	type row struct {
		ID       string `json:"id"`
		Name     string `json:"name"`
		ExitCode int64  `json:"exitcode"`
	}
	cmd := &cobra.Command{
		Use:   "wait CONTAINER...",
		Short: "Wait for containers to exit and print their exit statuses",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, a, func(ctx context.Context, containers core.Lifecycle) error {
				var rows []row
				err := forEach(ctx, containers, args,
					func(info core.Info) (int64, error) { return containers.WaitContainer(ctx, info.ID) },
					func(info core.Info, code int64) error {
						if a.json {
							rows = append(rows, row{info.ID, info.Name, code})
							return nil
						}
						_, err := fmt.Fprintln(a.env.Stdout, code)
						return err
					})
				if a.json {
					err = errors.Join(printJSON(a.env.Stdout, rows), err)
				}
				return err
			})
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) stopCommand() *cobra.Command {
	var seconds int
	cmd := &cobra.Command{
		Use:   "stop CONTAINER...",
		Short: "Stop containers: SIGTERM, then SIGKILL after a time",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				stop, err := stopper(engine, cmd.Flags().Changed("time"), seconds)
				if err != nil {
					return err
				}
				return a.onEach(ctx, engine, args, func(info core.Info) error { return stop(ctx, info.ID) })
			})
		},
	}
	cmd.Flags().IntVarP(&seconds, "time", "t", 0, "`seconds` before SIGKILL (default: the container's own)")
	a.jsonFlag(cmd)
	return cmd
}

func stopper(engine *wiring.Engine, timed bool, seconds int) (func(context.Context, string) error, error) {
	if !timed {
		return engine.StopContainer, nil
	}
	if seconds < 0 {
		return nil, fmt.Errorf("-t %d: want a number of seconds, 0 or more", seconds)
	}
	stopper, ok := core.As[optional.TimedStopper](engine)
	if !ok {
		return nil, &core.Error{Op: "stop container", Runtime: engine.Type(), Field: "-t", Class: core.ErrUnsupported}
	}
	return func(ctx context.Context, id string) error {
		return stopper.StopContainerTimeout(ctx, id, time.Duration(seconds)*time.Second)
	}, nil
}

// errRunning tells how to remove a running container.
var errRunning = errors.New("it is running; stop it first, or remove it with -f")

func (a *app) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm CONTAINER...",
		Short: "Remove containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				var lock sync.Mutex
				seen, removed := map[string]bool{}, []core.Info{}
				err := a.onEach(ctx, engine, args, func(info core.Info) error {
					lock.Lock()
					seen[info.Labels[core.LabelRunID]] = true
					lock.Unlock()
					if !force && (info.Status == core.StateRunning || info.Status == core.StatePaused) {
						return &core.Error{Op: "remove container", Object: info.Name, Class: core.ErrInUse, Err: errRunning}
					}
					err := engine.RemoveContainer(ctx, info.ID)
					if err == nil {
						lock.Lock()
						removed = append(removed, info)
						lock.Unlock()
					}
					return err
				})
				return errors.Join(err, a.forget(ctx, engine, removed), run.Reaper{Runtime: engine, Store: a.store(engine)}.Forget(ctx, seen))
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also remove running containers; they are killed")
	a.jsonFlag(cmd)
	return cmd
}

// forget removes what is left of the runs of removed containers, and that no process of
// Moat's removes: the network of a detached run, and what is kept of the evidence.
func (a *app) forget(ctx context.Context, engine *wiring.Engine, removed []core.Info) error {
	store, onNetworks := a.store(engine), map[string]bool{}
	for _, info := range removed {
		if runID := info.Labels[core.LabelRunID]; info.Labels[core.LabelRole] == core.RoleMain {
			store.ForgetEvidence(runID)
			if info.Labels[core.LabelServes] != "" {
				onNetworks[runID] = true
			}
		}
	}
	if len(onNetworks) == 0 {
		return nil
	}
	return run.Reaper{Runtime: engine, Store: store}.CleanNetworks(ctx, onNetworks)
}

// lineSplitter splits streams into lines. One goroutine writes all streams, as
// [optional.LogOptions] promises.
type lineSplitter struct {
	add     func(stream, line string) error
	streams []*splitStream
}

type splitStream struct {
	lines   *lineSplitter
	name    string
	partial strings.Builder
}

type lineRow struct {
	Stream string `json:"stream"`
	Line   string `json:"line"`
}

func (l *lineSplitter) stream(name string) io.Writer {
	stream := &splitStream{lines: l, name: name}
	l.streams = append(l.streams, stream)
	return stream
}

func (s *splitStream) Write(data []byte) (int, error) {
	rest := string(data)
	for {
		line, after, found := strings.Cut(rest, "\n")
		s.partial.WriteString(line)
		if !found {
			return len(data), nil
		}
		if err := s.flush(); err != nil {
			return 0, err
		}
		rest = after
	}
}

func (s *splitStream) flush() error {
	line := s.partial.String()
	s.partial.Reset()
	return s.lines.add(s.name, line)
}

// finish adds the lines that have not ended.
func (l *lineSplitter) finish() error {
	for _, stream := range l.streams {
		if stream.partial.Len() > 0 {
			if err := stream.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
