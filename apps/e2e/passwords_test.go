package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// TestOddPasswords has what shells, URLs, SQL and configuration files give a meaning, on
// its way from a definition to a real server and to its client.
func TestOddPasswords(t *testing.T) {
	const odd = `it's "odd" \ {password} {b} $(touch /x) ` + "`y` %41 a+b:c@d/e?f#g ünï" + "\n" + `and another line`
	for _, service := range real {
		t.Run(service.name, func(t *testing.T) {
			u := newServiceUser(t)
			rt, err := docker.New(docker.Options{Host: u.engine})
			if err != nil {
				t.Fatal(err)
			}
			defer rt.Close()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			definition, version, err := services.Default().Parse(service.name + ":" + service.tag)
			must(err)
			run := fmt.Sprint(service.name, os.Getpid())
			cfg, err := definition.Config(version, run, map[string]string{definition.PasswordEnv: odd}, nil)
			must(err)
			cfg.NetworkID, err = rt.NetworkManager().CreateNetwork(t.Context(), run)
			must(err)
			cleanUp := context.WithoutCancel(t.Context())
			defer func() { must(rt.NetworkManager().ForceRemoveNetwork(cleanUp, cfg.NetworkID)) }()
			info, err := rt.ServiceManager().StartService(t.Context(), cfg)
			must(err)
			defer func() { must(rt.ServiceManager().StopService(cleanUp, info)) }()
			must(services.WaitReady(t.Context(), rt.ServiceManager(), info, patience))
			client, err := rt.CreateContainer(t.Context(), core.Config{
				Image: "moat/test-" + service.name, Cmd: []string{"sh", "-ec", service.session}, Env: definition.MainEnv(info),
				NetworkMode: cfg.NetworkID, RunID: run,
			})
			must(err)
			defer func() { must(rt.RemoveContainer(cleanUp, client)) }()
			must(rt.StartContainer(t.Context(), client))
			code, err := rt.WaitContainer(t.Context(), client)
			must(err)
			var said, warned strings.Builder
			must(rt.StreamLogs(t.Context(), client, optional.LogOptions{Stdout: &said, Stderr: &warned}))
			if code != 0 || said.String() != "42\n" {
				t.Errorf("the client exited with status %d: %q, %s", code, said.String(), warned.String())
			}
		})
	}
}
