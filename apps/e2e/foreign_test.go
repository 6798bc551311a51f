package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/log"
)

// settleForeign has testcontainers-go use the tests' engine, whatever its caller's
// settings are. Its own way to clean up would need an image from elsewhere.
func settleForeign(home string) (err error) {
	for name, value := range map[string]string{
		"HOME": home, "DOCKER_HOST": os.Getenv(engine), "DOCKER_API_VERSION": "", "DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": "",
		"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX": "",
	} {
		err = errors.Join(err, os.Setenv(name, value))
	}
	log.SetDefault(quiet{})
	return err
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// foreign starts a container that Moat knows nothing of. It is gone after the test.
func (u *user) foreign(request testcontainers.ContainerRequest) testcontainers.Container {
	u.Helper()
	started, err := testcontainers.GenericContainer(u.Context(), testcontainers.GenericContainerRequest{
		ContainerRequest: request, Started: true, Logger: quiet{},
	})
	testcontainers.CleanupContainer(u.T, started, testcontainers.StopTimeout(0))
	if err != nil {
		u.Fatal(err)
	}
	return started
}

// foreignExec is what a command in a foreign container prints.
func (u *user) foreignExec(in testcontainers.Container, command ...string) string {
	u.Helper()
	command = append([]string{"timeout", fmt.Sprint(patience.Seconds())}, command...) // the library waits for ever
	code, output, err := in.Exec(u.Context(), command, exec.Multiplexed())
	if err != nil {
		u.Fatal(err)
	}
	text, err := io.ReadAll(output)
	if err != nil || code != 0 {
		u.Fatalf("%q: exit status %d, %v: %s", command, code, err, text)
	}
	return string(text)
}

// TestForeignClient has a client of somebody else's at a run and at its service.
func TestForeignClient(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newServiceUser(t)
			network := unique(t)
			u.must("network", "create", network)
			defer u.must("network", "rm", "-f", network)
			client := u.foreign(testcontainers.ContainerRequest{
				Image: "moat/test-redis", Entrypoint: []string{"sleep", "infinity"}, Networks: []string{network},
			})

			run := u.reading(u.labelled(sandbox, "--rm", "--network", network, "--network-alias", "workload", "--service", "redis:7", image,
				"sh", "-c", `echo "$MOAT_REDIS_URL"; while :; do echo here | nc -l -p 8080; done`)...)
			url, err := run.stdout.ReadString('\n')
			if err != nil {
				u.Fatalf("%v: %s", err, run.Stderr)
			}
			redis := []string{"redis-cli", "--no-auth-warning", "-u", strings.TrimSpace(url)}
			want(u, "what the service answers", u.foreignExec(client, append(redis, "set", "x", "42")...), "OK\n")
			want(u, "what it keeps", u.foreignExec(client, append(redis, "get", "x")...), "42\n")
			// The workload tells of its client before it listens.
			want(u, "what the workload answers", u.foreignExec(client,
				"bash", "-c", "until cat </dev/tcp/workload/8080; do sleep 0.1; done 2>/dev/null"), "here\n")

			_ = run.Process.Kill()
			_ = run.Wait()
			wantText(u, u.must("clean"), "its `moat run` was killed")
			if state, err := client.State(t.Context()); err != nil || !state.Running {
				u.Errorf("the client after a clean: %+v, %v", state, err)
			}
			wantText(u, u.moat("network", "rm", network).stderr, "in use")
		})
	}
}
