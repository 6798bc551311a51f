package contracttests

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

func serviceCases() []Case {
	one := func(number, title string, check func(*fixture)) Case {
		return Case{
			Number: number, Title: title, check: check, ability: capability("ServiceManager"),
			unsupported: func(f *fixture, _ string) error {
				_, err := core.ServiceManagerOf(f.rt)
				return err
			},
		}
	}
	return []Case{
		one("SV-01", "errors keep a service's password", secretService),
		one("SV-10", "what a service lacks is named", incompleteServices),
		one("SV-11", "a service's container is as configured", configuredService),
		one("SV-12", "a service joins the network of its configuration", joiningService),
		one("SV-13", "a service is found by its name", namedService),
		one("SV-15", "a service publishes no port", unpublishedService),
		serially(one("SV-16", "Pull says when a service's image is pulled", pulledService)),
		one("SV-17", "a service of what does not exist", unknownService),
		one("SV-18", "a run's services have different names", twinServices),
		one("SV-19", "a service that fails leaves nothing behind", failedService),
		one("SV-20", "a service that is ready", readyService),
		one("SV-21", "a service that is not ready tells why", unreadyService),
		one("SV-22", "no shell parses a placeholder's value", placeholders),
		one("SV-23", "a service that died tells why", deadService),
		one("SV-30", "a service is stopped once and for all", stoppedService),
		one("SV-40", "SetNetworkID holds for what starts later", laterNetwork),
	}
}

func (f *fixture) services() core.ServiceManager {
	f.Helper()
	manager, err := core.ServiceManagerOf(f.rt)
	f.must(err)
	return manager
}

const servicePassword = "p4ss-of-the-service"

// service is a configuration of one that runs the agent, on a network of its own.
func (f *fixture) service(steps ...string) core.ServiceConfig {
	return f.serviceOn(f.network(f.runID), steps...)
}

func (f *fixture) serviceOn(network string, steps ...string) core.ServiceConfig {
	image, tag, _ := strings.Cut(f.h.Image[strings.LastIndex(f.h.Image, "/"):], ":")
	return core.ServiceConfig{
		Name: "db", Image: f.h.Image[:strings.LastIndex(f.h.Image, "/")] + image, Version: tag, RunID: f.runID,
		Env: map[string]string{"DB_PASSWORD": servicePassword}, PasswordEnv: "DB_PASSWORD",
		Ports: map[string]int{"default": containerPort}, ExtraCmd: agentCommand(steps...), NetworkID: network,
		ReadinessCmd: "test -e /tmp/ready",
	}
}

func (f *fixture) startService(cfg core.ServiceConfig) core.ServiceInfo {
	f.Helper()
	info, err := f.services().StartService(f.ctx, cfg)
	f.must(err)
	f.created = append(f.created, info.ID)
	return info
}

// oddPassword is one that programs write in several ways, and whose lines are secret
// each for itself.
const oddPassword = "it's the \"odd\" one\n<and> its second line"

func secretService(f *fixture) {
	base := f.service("print the log has ", "env DB_PASSWORD", "say and more", "exit 3")
	for i, password := range []string{servicePassword, oddPassword} {
		cfg := base
		cfg.Name, cfg.Env = fmt.Sprint("db-", i, "-a"), map[string]string{"DB_PASSWORD": password}
		info := f.startService(cfg)
		f.wait(info.ID)
		died := f.services().CheckReady(f.ctx, info)
		f.wantClass("a service that has ended", died, core.ErrNotRunning)
		cfg.Name, cfg.ExtraCmd = fmt.Sprint("db-", i, "-b"), agentCommand("sleep")
		// What is cut to its last lines, or bytes, is not cut within a password.
		cfg.ReadinessCmd = `echo my {password}; for i in 1 2 3 4 5 6 7 8 9; do echo $i; done; exit 1`
		notReady := f.services().CheckReady(f.ctx, f.startService(cfg))
		cfg.Name, cfg.ExtraCmd = fmt.Sprint("db-", i, "-c"), []string{"/no-such-program " + password}
		_, failed := f.services().StartService(f.ctx, cfg)
		f.wantField("a service whose program does not exist", failed, "Cmd")
		for _, err := range []error{died, notReady, failed} {
			f.wantSecret(err, password)
		}
	}
}

// wantSecret checks that an error shows no line of a password, as it is or quoted, nor
// leads to an error that does.
func (f *fixture) wantSecret(err error, password string) {
	f.Helper()
	if err == nil {
		f.Error("no error")
		return
	}
	shown := fmt.Sprintf("%v %+v %#v", err, err, err)
	if found, ok := errors.AsType[*core.Error](err); ok {
		shown += fmt.Sprintf(" %v %#v %v", found, found, found.Err)
	}
	for line := range strings.SplitSeq(password, "\n") {
		quoted := fmt.Sprintf("%q", line)
		for _, secret := range []string{line, quoted[1 : len(quoted)-1]} {
			if strings.Contains(shown, secret) {
				f.Errorf("%s of the password is in %s", secret, shown)
			}
		}
	}
}

func pulledService(f *fixture) {
	cfg := f.service("sleep")
	f.pullPolicies(func(image string, policy core.PullPolicy) error {
		version := strings.LastIndexByte(image, ':')
		cfg.Image, cfg.Version, cfg.Pull = image[:version], image[version+1:], policy
		info, err := f.services().StartService(f.ctx, cfg)
		if err == nil {
			f.must(f.services().StopService(f.ctx, info))
		}
		return err
	})
}

func incompleteServices(f *fixture) {
	cfg := f.service("sleep")
	for field, spoil := range map[string]func(*core.ServiceConfig){
		"Image": func(c *core.ServiceConfig) { c.Image = "" },
		"Name":  func(c *core.ServiceConfig) { c.Name = "" },
		"RunID": func(c *core.ServiceConfig) { c.RunID = "" },
		"Ports": func(c *core.ServiceConfig) { c.Ports = map[string]int{"default": 0} },
	} {
		spoiled := cfg
		spoil(&spoiled)
		_, err := f.services().StartService(f.ctx, spoiled)
		f.wantField("a service with a wrong "+field, err, field)
	}
}

func configuredService(f *fixture) {
	cfg := f.service("env DB_PASSWORD", "say {password}-{unknown}", "hostname", "sleep")
	info := f.startService(cfg)
	f.awaitOutput(info.ID, servicePassword+"\n"+servicePassword+"-{unknown}\ndb\n")
	f.wantLabels("moat-db-"+f.runID, map[string]string{
		core.LabelManaged: "true", core.LabelRunID: f.runID, core.LabelRole: core.RoleService, core.LabelVersion: core.Version,
	})
	want(f, "Name", info.Name, "db")
	want(f, "Ports", info.Ports["default"], containerPort)
	want(f, "Env", info.Env["DB_PASSWORD"], servicePassword)
	want(f, "PasswordEnv", info.PasswordEnv, "DB_PASSWORD")
	want(f, "ReadinessCmd", info.ReadinessCmd, cfg.ReadinessCmd)
}

// wantUsed checks that something runs on a network, or that nothing does: which
// removes it.
func (f *fixture) wantUsed(network string, used bool) {
	f.Helper()
	if err := f.networks().RemoveNetwork(f.ctx, network); errors.Is(err, core.ErrInUse) != used {
		f.Errorf("removing the network returned %v; used: %t", err, used)
	}
}

func joiningService(f *fixture) {
	cfg := f.service("sleep")
	other := f.network(f.runID + "-2")
	elsewhere := cfg
	elsewhere.Name, elsewhere.NetworkID = "db-2", ""
	f.wantState(f.startService(elsewhere).ID, core.StateRunning)
	f.wantUsed(other, false)
	f.services().SetNetworkID(f.network(f.runID + "-3"))
	f.startService(cfg)
	f.wantUsed(cfg.NetworkID, true)
}

func namedService(f *fixture) {
	cfg := f.service(serving(containerPort))
	info := f.startService(cfg)
	if info.Host == "" {
		f.Error("the service has no host")
	}
	if !optional.CapabilitiesOf(f.rt).NetworkPeers {
		return
	}
	f.wantHello(cfg.NetworkID, info.Host, "a container on the service's network, by ServiceInfo.Host,")
	f.wantHello(cfg.NetworkID, "db", "a container on the service's network, by the service's name,")
}

func unpublishedService(f *fixture) {
	want(f, "the number of published ports", len(f.ports(f.startService(f.service("sleep")).ID)), 0)
}

func unknownService(f *fixture) {
	cfg := f.service("sleep")
	elsewhere := cfg
	elsewhere.NetworkID = f.missing()
	_, err := f.services().StartService(f.ctx, elsewhere)
	f.wantMissing("a service on a network that does not exist", err, elsewhere.NetworkID)
	tag := strings.LastIndex(f.missingImage(), ":")
	cfg.Image, cfg.Version = f.missingImage()[:tag], f.missingImage()[tag+1:]
	_, err = f.services().StartService(f.ctx, cfg)
	f.wantMissing("a service of an image that does not exist", err, f.missingImage())
}

func twinServices(f *fixture) {
	cfg := f.service("sleep")
	info := f.startService(cfg)
	_, err := f.services().StartService(f.ctx, cfg)
	f.wantClass("a service of a name that is taken", err, core.ErrAlreadyExists)
	f.wantState(info.ID, core.StateRunning)
}

func failedService(f *fixture) {
	cfg := f.service()
	cfg.ExtraCmd = []string{"/no-such-program"}
	_, err := f.services().StartService(f.ctx, cfg)
	f.wantField("a service whose program does not exist", err, "Cmd")
	cfg.ExtraCmd = agentCommand("sleep")
	f.startService(cfg) // its name is free
	want(f, "the number of containers", len(f.runningServices()), 1)
}

// runningServices lists the containers of the case that are services.
func (f *fixture) runningServices() (infos []core.Info) {
	for _, info := range ofRun(f.runID, f.list()) {
		if info.Labels[core.LabelRole] == core.RoleService {
			infos = append(infos, info)
		}
	}
	return infos
}

func readyService(f *fixture) {
	cfg := f.service("after 1s append /tmp/ready yes", "sleep")
	info := f.startService(cfg)
	f.must(services.WaitReady(f.ctx, f.services(), info, patience))
	f.must(f.services().CheckReady(f.ctx, info))
	info.ReadinessCmd = ""
	f.must(f.services().CheckReady(f.ctx, info))
}

func unreadyService(f *fixture) {
	cfg := f.service("sleep")
	cfg.ReadinessCmd = "echo still starting; echo on stderr >&2; exit 7"
	info := f.startService(cfg)
	err := f.services().CheckReady(f.ctx, info)
	for _, text := range []string{"still starting", "on stderr", "7", "db"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			f.Errorf("%q is missing from %v", text, err)
		}
	}
	if errors.Is(err, core.ErrNotRunning) {
		f.Errorf("a service that runs is said not to: %v", err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	f.wantClass("asking with a context that has ended", f.services().CheckReady(ctx, info), context.Canceled)
}

func placeholders(f *fixture) {
	const odd = "it's $(touch /tmp/owned) `touch /tmp/owned` {db_user} \"quoted\" \\ and\na line"
	cfg := f.service("sleep")
	cfg.Env["DB_PASSWORD"], cfg.Env["DB_USER"], cfg.Env["EXPECTED"] = odd, "the user", odd
	cfg.ReadinessCmd = `test {password} = "$EXPECTED" && test "{password}" = "$EXPECTED" && test {db_user} = "the user" && test "{none}" = "{"none} && ! test -e /tmp/owned`
	f.must(f.services().CheckReady(f.ctx, f.startService(cfg)))
}

func deadService(f *fixture) {
	cfg := f.service("say the reason for it", "exit 9")
	info := f.startService(cfg)
	f.wait(info.ID)
	err := services.WaitReady(f.ctx, f.services(), info, patience)
	f.wantClass("a service that died", err, core.ErrNotRunning)
	for _, text := range []string{"the reason for it", "9"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			f.Errorf("%q is missing from %v", text, err)
		}
	}
	// Asking is what it dies of: before the second time, or in the first.
	cfg.Name, cfg.ReadinessCmd = "db-2", "touch /tmp/asked; exit 1"
	cfg.ExtraCmd = agentCommand("await /tmp/asked", "say another reason", "exit 8")
	err = services.WaitReady(f.ctx, f.services(), f.startService(cfg), patience)
	f.wantClass("a service that dies while it is waited for", err, core.ErrNotRunning)
	for _, text := range []string{"another reason", "8"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			f.Errorf("%q is missing from %v", text, err)
		}
	}
	info.ReadinessCmd = ""
	f.wantClass("a service that died, without a readiness command", f.services().CheckReady(f.ctx, info), core.ErrNotRunning)
	f.remove(info.ID)
	f.wantClass("a service that is gone", f.services().CheckReady(f.ctx, info), core.ErrNotFound)
}

func stoppedService(f *fixture) {
	cfg := f.service("ignore TERM", "sleep")
	info := f.startService(cfg)
	f.must(f.services().StopService(f.ctx, info))
	want(f, "the number of services", len(f.runningServices()), 0)
	f.must(f.services().StopService(f.ctx, info))
	f.must(f.services().StopService(f.ctx, f.startService(cfg)))
	f.must(f.services().StopService(f.ctx, core.ServiceInfo{}))
	f.must(f.networks().RemoveNetwork(f.ctx, cfg.NetworkID))
}

func laterNetwork(f *fixture) {
	cfg := f.service("sleep")
	first, second := cfg.NetworkID, f.network(f.runID+"-2")
	cfg.NetworkID = ""
	f.services().SetNetworkID(first)
	f.startService(cfg)
	f.services().SetNetworkID(second)
	f.wantUsed(first, true)
	cfg.Name = "db-2"
	f.startService(cfg)
	f.wantUsed(second, true)
}
