package core

import (
	"maps"
	"time"

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

	// LabelServes is the ID of an object, such as a network, that needs a container of the
	// adapter's own. That container has this label, and so has each container that needs it.
	LabelServes = labelPrefix + "serves"

	// LabelExpires is a time (RFC 3339). After it an object with [RoleAdapter] may be
	// removed by anybody, unless a container that needs it exists.
	LabelExpires = labelPrefix + "expires"
)

// The roles that [LabelRole] tells.
const (
	RoleMain    = "main"
	RoleSidecar = "sidecar"
	RoleService = "service"
	RoleNetwork = "network"
	RoleImage   = "image"

	// RoleAdapter is what an adapter makes for itself: a check, or a container that other
	// containers or a network need. The adapter removes it when it has done its work, or
	// with the last object that needs it, created and exited containers included.
	// [LabelExpires] tells when anybody may, and so does the end of its run, if it has a
	// run ID.
	RoleAdapter = "adapter"
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

// AdapterLabels returns Moat's labels for a container that an adapter makes for itself,
// with [RoleAdapter]. It serves the object of this ID, "" for none.
func AdapterLabels(serves string, expires time.Time) map[string]string {
	labels := ObjectLabels("", RoleAdapter)
	labels[LabelExpires] = expires.UTC().Format(time.RFC3339)
	if serves != "" {
		labels[LabelServes] = serves
	}
	return labels
}

// IsManaged reports whether Moat created a container with this name and these labels. A
// container that somebody else created from an image of Moat's inherits the image's labels,
// which have [RoleImage]. It is not managed.
func IsManaged(name string, labels map[string]string) bool {
	return (labels[LabelManaged] == "true" && labels[LabelRole] != RoleImage) || IsRunName(name)
}
