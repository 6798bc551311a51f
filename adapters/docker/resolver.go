package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
)

// On networks the engine's name server listens at an address of each container's own
// loopback, by rules of the host kernel's, which a sandbox's network stack never sees.
// So each network that a sandboxed container is created on gets a helper container
// without a sandbox, the resolver, which hands lookups on to the engine's. It writes its
// address into its own /etc/resolv.conf, a file of the engine's host that the engine
// tells the path of; sandboxed containers get that file, read-only, for their own.
// programs/resolver.c is its source.

// resolvConf is what the file that names the name servers is called in every container.
const resolvConf = "/etc/resolv.conf"

// resolverName is the resolver's on a network.
func resolverName(networkID string) string { return "moat-resolver-" + networkID[:12] }

// resolvers is what is known of the networks' resolvers.
type resolvers struct {
	starting mutex             // the first container on a network starts it, others wait for that
	ready    map[string]string // by the resolver's ID, the path of its resolv.conf on the engine's host
}

// resolver returns the path, on the engine's host, of the file to be a sandboxed
// container's resolv.conf. It starts the network's resolver where there is none, with
// the labels of its owner: the network, or the container where that is not ours.
func (r *Runtime) resolver(ctx context.Context, found network.Inspect, owner map[string]string) (string, error) {
	if err := r.resolvers.starting.lock(ctx); err != nil {
		return "", err
	}
	defer r.resolvers.starting.unlock()
	name := resolverName(found.ID)
	running, err := r.engine.ContainerInspect(ctx, name)
	if err == nil && running.State.Running && r.resolvers.ready[running.ID] != "" {
		return r.resolvers.ready[running.ID], nil
	}
	if errdefs.IsNotFound(err) {
		err = r.createResolver(ctx, name, found, owner)
	}
	if err == nil {
		err = r.engine.ContainerStart(ctx, name, container.StartOptions{})
	}
	if err == nil {
		err = r.awaitResolver(ctx, name)
	}
	if err == nil {
		running, err = r.engine.ContainerInspect(ctx, name)
	}
	if err != nil {
		return "", fmt.Errorf("start the resolver of network %s: %w", found.Name, err)
	}
	r.resolvers.ready[running.ID] = running.ResolvConfPath
	return running.ResolvConfPath, nil
}

func (r *Runtime) createResolver(ctx context.Context, name string, found network.Inspect, owner map[string]string) error {
	version, err := r.engine.ServerVersion(ctx)
	if err != nil {
		return err
	}
	program, err := programs.ReadFile("programs/resolver-" + version.Arch)
	if err != nil {
		return &core.Error{Class: core.ErrUnsupported, Err: errors.New("there is no resolver for " + version.Arch), Remedy: "Use network bridge"}
	}
	plain, err := r.plainRuntime(ctx)
	if err != nil {
		return err
	}
	ref := programImage("resolver", program)
	labels := maps.Clone(owner)
	labels[core.LabelRole] = core.RoleHelper
	config := &container.Config{Image: ref, Labels: labels}
	pids := int64(1)
	hostConfig := &container.HostConfig{
		Runtime:       plain,
		NetworkMode:   container.NetworkMode(found.ID),
		CapDrop:       []string{"ALL"},
		CapAdd:        []string{"NET_BIND_SERVICE"},
		SecurityOpt:   []string{"no-new-privileges"},
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyOnFailure},
		LogConfig:     logConfig,
		Resources:     container.Resources{PidsLimit: &pids},
	}
	endpoint := &network.EndpointSettings{IPAMConfig: resolverAddress(found)}
	networking := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{found.ID: endpoint}}
	create := func() error {
		_, err := r.engine.ContainerCreate(ctx, config, hostConfig, networking, nil, name)
		return err
	}
	err = create()
	if noSuchImage(err) {
		if err = r.importProgram(ctx, ref, "resolver", program); err == nil {
			err = create()
		}
	}
	if errdefs.IsConflict(err) {
		return nil // another process has created it meanwhile
	}
	return err
}

// resolverAddress is the last of a network of ours, so that the resolver has it again
// after a restart.
func resolverAddress(found network.Inspect) *network.EndpointIPAMConfig {
	if found.Labels[core.LabelManaged] != "true" || len(found.IPAM.Config) == 0 {
		return nil
	}
	subnet, err := netip.ParsePrefix(found.IPAM.Config[0].Subnet)
	if err != nil || !subnet.Addr().Is4() {
		return nil
	}
	var last [4]byte
	first := binary.BigEndian.Uint32(subnet.Addr().AsSlice())
	binary.BigEndian.PutUint32(last[:], first+1<<(32-subnet.Bits())-2)
	return &network.EndpointIPAMConfig{IPv4Address: netip.AddrFrom4(last).String()}
}

// awaitResolver returns when the resolver has said that it answers.
func (r *Runtime) awaitResolver(ctx context.Context, name string) error {
	body, err := r.engine.ContainerLogs(ctx, name, container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		return err
	}
	defer body.Close()
	said := bufio.NewScanner(body)
	var last string
	for said.Scan() {
		if last = said.Text(); strings.HasSuffix(last, "ready") {
			return nil
		}
	}
	return errors.Join(errors.New("it has ended: "+strings.TrimLeft(last, "\x00\x01\x02")), said.Err())
}

// leaveNetwork removes the resolver of a network that is not ours with the last
// container that this process has put there: its owner could not remove it otherwise.
func (r *Runtime) leaveNetwork(ctx context.Context, networkID string) {
	if networkID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	found, err := r.engine.NetworkInspect(ctx, networkID, network.InspectOptions{})
	if err != nil || len(found.Containers) != 1 {
		return
	}
	for member, endpoint := range found.Containers {
		if endpoint.Name == resolverName(found.ID) {
			_ = r.RemoveContainer(ctx, member)
		}
	}
}

// nameServers gives a sandboxed container on a network the resolver's resolv.conf.
func nameServers(hostConfig *container.HostConfig, path string) {
	for _, m := range hostConfig.Mounts {
		if m.Target == resolvConf {
			return // the caller knows better
		}
	}
	hostConfig.Mounts = append(hostConfig.Mounts, mount.Mount{Type: mount.TypeBind, Source: path, Target: resolvConf, ReadOnly: true})
}
