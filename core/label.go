package core

import (
	"maps"

	"github.com/moatproject/moat/core/internal/validation"
)

const (
	labelPrefix    = "moat."
	runLabelPrefix = labelPrefix + "run." // package run's: Labels may have them
)

// The labels on everything that Moat creates.
const (
	LabelManaged = labelPrefix + "managed" // always "true"
	LabelRunID   = labelPrefix + "run-id"
	LabelRole    = labelPrefix + "role"
	LabelVersion = labelPrefix + "version"

	// LabelNetwork is the ID of the network that a helper serves: on the helper, and on
	// each container that cannot do without it. Whose network it is does not matter.
	LabelNetwork = labelPrefix + "network"
)

// The roles that [LabelRole] tells.
const (
	RoleMain    = "main"
	RoleSidecar = "sidecar"
	RoleService = "service"
	RoleNetwork = "network"
	RoleImage   = "image"

	// RoleProbe is an adapter's own short-lived check. Its run ID is empty: what is some
	// minutes old, by [Info].Created, was left behind by a process that was killed.
	RoleProbe = "probe"

	// RoleHelper is what an adapter needs beside runs' containers. A container has
	// [LabelNetwork] and an empty run ID, because the runs that use it come and go: it
	// is left over once no other container has the same [LabelNetwork], created and
	// exited ones included. The adapter itself removes it with its last user, and with
	// its network; it makes a new one when the next user is created. So whoever tidies
	// up may remove one without users, but not one that is younger than a minute: it
	// comes just before its first user.
	RoleHelper = "helper"
)

// Version is this release of Moat, as [LabelVersion] and `moat version` show it.
const Version = "0.1.0-dev"

var runNamePattern = validation.Pattern(`^[0-9a-f]{8}$`)

// IsRunName tells whether a container's name is that of a run: eight hexadecimal
// digits.
func IsRunName(name string) bool { return runNamePattern().MatchString(name) }

// ContainerLabels returns the labels a container of this configuration carries:
// the caller's and Moat's.
func (c Config) ContainerLabels() map[string]string {
	labels := make(map[string]string, len(c.Labels)+4)
	maps.Copy(labels, c.Labels)
	role := c.Role
	if role == "" {
		role = RoleMain
	}
	maps.Copy(labels, ObjectLabels(c.RunID, role))
	maps.Copy(labels, c.ownLabels)
	labels[LabelManaged] = "true"
	return labels
}

// ObjectLabels returns Moat's labels for an object of a run.
func ObjectLabels(runID, role string) map[string]string {
	return map[string]string{
		LabelManaged: "true",
		LabelRunID:   runID,
		LabelRole:    role,
		LabelVersion: Version,
	}
}

// IsManaged tells whether a container with this name and these labels is ours. One that
// somebody else has made of an image of ours has only the image's labels.
func IsManaged(name string, labels map[string]string) bool {
	return (labels[LabelManaged] == "true" && labels[LabelRole] != RoleImage) || IsRunName(name)
}
