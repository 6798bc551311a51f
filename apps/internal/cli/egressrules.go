package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
	"github.com/spf13/cobra"
)

func (a *app) egressCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "egress",
		Short: "Show and change what a running `moat run --egress` reaches outside",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.egressListCommand(), a.egressAllowCommand(), a.egressDenyCommand(), a.egressLogCommand())
	return cmd
}

func (a *app) egressListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls RUN",
		Short:   "List the rules in force",
		Example: "  moat egress ls 3b7214d5",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.egressRules(cmd, "list egress rules", args[0], "rules")
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) egressAllowCommand() *cobra.Command {
	return a.egressChangeCommand(&cobra.Command{
		Use:     "allow RUN RULE...",
		Short:   "Allow destinations, and list the rules in force",
		Example: "  moat egress allow 3b7214d5 example.org:80\n  moat egress allow 3b7214d5 '*.example.net' @pypi",
	})
}

func (a *app) egressDenyCommand() *cobra.Command {
	return a.egressChangeCommand(&cobra.Command{
		Use:     "deny RUN RULE...",
		Short:   "Remove rules, cut their open connections, and list the rules in force",
		Long:    "Remove rules, cut their open connections, and list the rules in force. If one of the rules is not in force, nothing changes.",
		Example: "  moat egress deny 3b7214d5 example.org:80",
	})
}

func (a *app) egressChangeCommand(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(2)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rules, err := checkRules(args[1:])
		if err != nil {
			return err
		}
		return a.egressRules(cmd, cmd.Name()+" egress", args[0], cmd.Name(), rules...)
	}
	a.jsonFlag(cmd)
	return cmd
}

// checkRules returns the canonical texts of valid rules. None can be read as a flag.
func checkRules(texts []string) ([]string, error) {
	rules, err := egress.ParseRules(texts...)
	checked := make([]string, len(rules))
	for i, rule := range rules {
		checked[i] = rule.String()
	}
	return checked, err
}

func (a *app) egressLogCommand() *cobra.Command {
	var options optional.LogOptions
	cmd := &cobra.Command{
		Use:     "log RUN",
		Short:   "Show the audit of a run's requests, one JSON object per line",
		Example: "  moat egress log -f 3b7214d5",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				return a.egressLog(ctx, engine, args[0], options)
			})
		},
	}
	cmd.Flags().BoolVarP(&options.Follow, "follow", "f", false, "follow the audit until the run ends")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) egressLog(ctx context.Context, engine *wiring.Engine, arg string, options optional.LogOptions) error {
	streamer, ok := core.As[optional.LogStreamer](engine)
	if !ok {
		return &core.Error{Op: "read egress log", Runtime: engine.Type(), Class: core.ErrUnsupported}
	}
	r, err := findRestricted(ctx, engine, "read egress log", arg)
	if err != nil {
		return err
	}
	lines, finish := &lineSplitter{}, func() error { return nil }
	options.Stdout = lines.stream("stdout")
	if a.json {
		rows := &jsonRows{out: a.env.Stdout}
		lines.add, finish = func(_, line string) error { return rows.add(recordRow(line)) }, rows.finish
	} else {
		lines.add = func(_, line string) error {
			_, err := io.WriteString(a.env.Stdout, escapeRecord(line)+"\n")
			return err
		}
	}
	return errors.Join(r.explain(streamer.StreamLogs(ctx, r.network.Container, options)), lines.finish(), finish())
}

// escapeRecord makes a record safe for a terminal. It is the same JSON: a workload chooses
// the characters of some of its texts, and JSON leaves those from U+007F on as they are.
func escapeRecord(line string) string {
	var escaped strings.Builder
	for _, r := range line {
		if r >= ' ' && r <= '~' {
			escaped.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&escaped, `\u%04x`, unit)
		}
	}
	return escaped.String()
}

// recordRow is a record as a JSON object. A write that failed can have left a part of one.
func recordRow(line string) any {
	if escaped := escapeRecord(line); json.Valid([]byte(escaped)) {
		return json.RawMessage(escaped)
	}
	return map[string]string{"unreadable": line}
}

// restrictedRun is a run with restricted egress.
type restrictedRun struct {
	op      string // of the command
	name    string // of the container that the user named
	ended   bool
	network optional.RestrictedNetwork
}

// findRestricted finds a run by its ID, or by one of its containers.
func findRestricted(ctx context.Context, engine *wiring.Engine, op, arg string) (r restrictedRun, err error) {
	all, err := engine.ListContainers(ctx)
	if err != nil {
		return r, err
	}
	info, err := matchRun(all, arg)
	if err != nil {
		return r, err
	}
	runID := info.Labels[core.LabelRunID]
	r.op, r.name, r.ended = op, info.Name, hasEnded(all, runID)
	if runID == "" {
		return r, r.failed(nil, "the container belongs to no run", "Run its command with `moat run --egress RULE`")
	}
	networks, _ := core.NetworkManagerOf(engine)
	finder, ok := networks.(optional.RestrictedNetworkFinder)
	if !ok {
		return r, &core.Error{Op: op, Runtime: engine.Type(), Object: r.name, Class: core.ErrUnsupported}
	}
	var missing error
	r.network, missing = finder.FindRestrictedNetwork(ctx, runID)
	if !isMissing(missing) {
		return r, missing
	}
	if all, err = engine.ListContainers(ctx); err != nil { // again: it may have ended meanwhile
		return r, err
	}
	switch r.ended = hasEnded(all, runID); {
	case r.ended:
		return r, r.over()
	case errors.Is(missing, core.ErrNotFound):
		return r, r.failed(nil, "it has no proxy: its network is closed, open, or one that you named", "Run it with --egress RULE")
	}
	return r, r.explain(missing)
}

// matchRun is match for a run: its ID comes first, because denials name it.
func matchRun(all []core.Info, arg string) (core.Info, error) {
	for _, info := range all {
		if arg != "" && isWorkload(info, arg) {
			return info, nil
		}
	}
	return match(all, arg)
}

func isWorkload(info core.Info, runID string) bool {
	return info.Labels[core.LabelRunID] == runID && info.Labels[core.LabelRole] == core.RoleMain
}

// hasEnded tells whether a run's workload has exited, or is gone.
func hasEnded(all []core.Info, runID string) bool {
	for _, info := range all {
		if isWorkload(info, runID) && (run.IsRunning(info.Status) || info.Status == core.StateCreated) {
			return false
		}
	}
	return true
}

func (r restrictedRun) failed(class error, why, remedy string) error {
	return &core.Error{Op: r.op, Object: r.name, Class: class, Err: errors.New(why), Remedy: remedy}
}

func (r restrictedRun) over() error {
	return r.failed(core.ErrNotRunning, "the run has ended, and its proxy with it", "Run it again with --egress RULE")
}

func isMissing(err error) bool {
	return errors.Is(err, core.ErrNotRunning) || errors.Is(err, core.ErrNotFound)
}

// explain tells of a proxy that does not run: the run has just begun, or the proxy has died.
func (r restrictedRun) explain(err error) error {
	if isMissing(err) {
		return r.failed(core.ErrNotRunning, "its proxy does not run, so it reaches nothing outside", "Try again if the run is just starting, or run it again with --egress RULE")
	}
	return err
}

// egressRules has the proxy of a run execute a command, and prints the rules that are then
// in force.
func (a *app) egressRules(cmd *cobra.Command, op, arg, command string, rules ...string) error {
	return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
		execer, ok := core.As[optional.Execer](engine)
		if !ok {
			return &core.Error{Op: op, Runtime: engine.Type(), Class: core.ErrUnsupported}
		}
		r, err := findRestricted(ctx, engine, op, arg)
		switch {
		case err != nil:
			return err
		case r.ended: // its `moat run` was killed, or is about to remove the proxy
			return r.over()
		}
		inForce, err := r.ask(ctx, execer, command, rules)
		if err != nil {
			return err
		}
		return a.printRules(inForce)
	})
}

// ask has the proxy execute a command, and returns the rules that are then in force. The
// proxy reads an untrusted workload's requests: its answer is bounded, and only rules are
// taken from it.
func (r restrictedRun) ask(ctx context.Context, execer optional.Execer, command string, rules []string) ([]egress.Rule, error) {
	var stdout, stderr answer
	options := optional.ExecOptions{Cmd: append([]string{r.network.Program, command}, rules...)}
	options.Stdout, options.Stderr = &stdout, &stderr
	code, err := execer.Exec(ctx, r.network.Container, options)
	switch {
	case err != nil:
		return nil, r.explain(err)
	case code != 0:
		remedy := ""
		if command == "deny" {
			remedy = "List the rules in force with `moat egress ls " + r.name + "`"
		}
		why := strings.TrimSpace(strings.TrimPrefix(stderr.text.String(), proxyProgram+": "))
		return nil, r.failed(nil, cmp.Or(why, fmt.Sprintf("its proxy's program has exited with status %d", code)), remedy)
	}
	var inForce []egress.Rule
	for line := range strings.Lines(stdout.text.String()) {
		rule, err := egress.ParseRule(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, &core.Error{Op: r.op, Object: r.name, Err: fmt.Errorf("the proxy's answer: %w", err)}
		}
		inForce = append(inForce, rule)
	}
	return inForce, nil
}

// answer keeps what the proxy answers, up to a limit.
type answer struct{ text bytes.Buffer }

const maxAnswer = 1 << 20

func (a *answer) Write(p []byte) (int, error) {
	if a.text.Len()+len(p) > maxAnswer {
		return 0, errors.New("the proxy's answer is too long")
	}
	return a.text.Write(p)
}

func (a *app) printRules(rules []egress.Rule) error {
	if a.json {
		type row struct {
			Rule string `json:"rule"`
		}
		rows := make([]row, len(rules))
		for i, rule := range rules {
			rows[i].Rule = rule.String()
		}
		return printJSON(a.env.Stdout, rows)
	}
	var text strings.Builder
	for _, rule := range rules {
		fmt.Fprintln(&text, rule)
	}
	_, err := io.WriteString(a.env.Stdout, text.String())
	return err
}
