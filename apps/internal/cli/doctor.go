package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

// diagnosisTimeout bounds the check of one candidate.
const diagnosisTimeout = 30 * time.Second

// diagnosis is doctor's result for one candidate.
type diagnosis struct {
	Runtime      core.RuntimeType      `json:"runtime"`
	Endpoint     string                `json:"endpoint"`
	Usable       bool                  `json:"usable"`
	OnlyForced   bool                  `json:"onlyforced"` // never chosen unless asked for
	Reason       string                `json:"reason,omitempty"`
	Remedy       string                `json:"remedy,omitempty"`
	Description  optional.Description  `json:"description"`
	Capabilities optional.Capabilities `json:"capabilities"`
}

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show every runtime, whether it is usable, and what it guarantees",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := a.cancelOnSignal(cmd.Context())
			defer stop()
			registered := a.registered(slog.New(slog.DiscardHandler))
			settings := a.settings()
			plan, err := detect.Plan(settings.Host, settings.Options, registered)
			if err != nil {
				return err
			}
			all := diagnoseAll(ctx, settings.Host, registered)
			return errors.Join(a.printDiagnoses(all), noneUsable(plan, all))
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// noneUsable is the error of a plan without a usable runtime.
func noneUsable(plan []detect.Candidate, all []diagnosis) error {
	var planned []string
	for _, candidate := range plan {
		planned = append(planned, string(candidate.Type))
		if slices.ContainsFunc(all, func(d diagnosis) bool {
			return d.Usable && d.Runtime == candidate.Type && d.Endpoint == candidate.Endpoint
		}) {
			return nil
		}
	}
	return fmt.Errorf("`moat run` would use %s, which is not usable; follow one of the remedies above", strings.Join(slices.Compact(planned), " or "))
}

func diagnoseAll(ctx context.Context, host detect.Host, registered []detect.Registration) []diagnosis {
	var candidates []detect.Candidate
	for _, registration := range registered {
		candidates = append(candidates, registration.Candidates()...)
	}
	all := make([]diagnosis, len(candidates))
	var wg sync.WaitGroup
	for i, candidate := range candidates {
		wg.Go(func() { all[i] = diagnose(ctx, candidate, detect.OnlyForced(host, registered, candidate.Type)) })
	}
	wg.Wait()
	return all
}

func diagnose(ctx context.Context, candidate detect.Candidate, onlyForced bool) diagnosis {
	ctx, cancel := context.WithTimeout(ctx, diagnosisTimeout)
	defer cancel()
	d := diagnosis{Runtime: candidate.Type, Endpoint: candidate.Endpoint, OnlyForced: onlyForced}
	rt, err := candidate.New()
	if err != nil {
		d.fail(err)
		return d
	}
	defer func() { _ = rt.Close() }()
	d.Capabilities = optional.CapabilitiesOf(rt)
	if err := rt.Ping(ctx); err != nil {
		d.fail(err)
		return d
	}
	if verifier, ok := core.As[optional.Verifier](rt); ok {
		if err := verifier.Verify(ctx); err != nil {
			d.fail(err)
		}
	}
	if describer, ok := core.As[optional.Describer](rt); ok {
		if d.Description, err = describer.Describe(ctx); err != nil {
			d.fail(err)
		}
	}
	d.Usable = d.Reason == ""
	return d
}

// fail keeps the first reason and its remedy.
func (d *diagnosis) fail(err error) {
	if d.Reason != "" {
		return
	}
	if failure, ok := errors.AsType[*core.Error](err); ok {
		bare := *failure
		bare.Remedy = ""
		d.Reason, d.Remedy = bare.Error(), failure.Remedy
		return
	}
	d.Reason = err.Error()
}

func (a *app) printDiagnoses(all []diagnosis) error {
	if a.json {
		return printJSON(a.env.Stdout, all)
	}
	var b strings.Builder
	for _, d := range all {
		d.print(&b)
	}
	_, err := fmt.Fprint(a.env.Stdout, b.String())
	return err
}

func (d *diagnosis) print(b *strings.Builder) {
	status, isolation, held := "usable", string(d.Capabilities.Isolation), guarantees(d.Capabilities)
	switch {
	case !d.Usable:
		status, isolation, held = "NOT usable", "", "" // what does not work guarantees nothing
	case d.OnlyForced:
		status = "usable with --runtime " + string(d.Runtime)
	}
	fmt.Fprintf(b, "%s: %s\n", strings.TrimSpace(string(d.Runtime)+" "+d.Endpoint), status)
	for _, line := range [][2]string{
		{"reason", d.Reason}, {"remedy", d.Remedy}, {"engine", d.Description.Engine},
		{"platform", d.Description.Platform}, {"sandbox", d.Description.Sandbox}, {"kernel", d.Description.Kernel}, {"files", d.Description.Files},
		{"isolation", isolation}, {"guarantees", held},
	} {
		if line[1] != "" {
			fmt.Fprintf(b, "  %-11s %s\n", line[0]+":", strings.ReplaceAll(line[1], "\n", "\n              "))
		}
	}
	b.WriteString("\n")
}

func guarantees(c optional.Capabilities) string {
	var held, missing []string
	for _, guarantee := range []struct {
		name string
		held bool
	}{
		{"exit codes", c.ExitCodes}, {"memory limit", c.MemoryLimit}, {"CPU limit", c.CPULimit},
		{"process limit", c.PidsLimit}, {"no new privileges", c.NoNewPrivileges},
		{"enforced egress", c.EnforcedEgress}, {"user namespaces", c.UserNamespaces},
	} {
		if guarantee.held {
			held = append(held, guarantee.name)
		} else {
			missing = append(missing, guarantee.name)
		}
	}
	text := strings.Join(held, ", ")
	if len(missing) > 0 {
		text += "\nnot: " + strings.Join(missing, ", ")
	}
	return strings.TrimPrefix(text, "\n")
}
