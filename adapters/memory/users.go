package memory

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// user is whom a container's processes run as.
type user struct {
	spec     string // as it was asked for
	name     string // empty: unknown to /etc/passwd
	uid, gid int
	groups   []int // with gid, first
	home     string
}

// lookUpUser finds USER or USER:GROUP, each a name or a number.
func (f *filesystem) lookUpUser(spec string) (user, error) {
	name, group, hasGroup := strings.Cut(cmp.Or(spec, "0"), ":")
	u := user{spec: spec, home: "/"}
	number, err := strconv.Atoi(name)
	if entry := f.accountEntry("/etc/passwd", 6, name); entry != nil {
		u.name, u.home = entry[0], entry[5]
		u.uid, _ = strconv.Atoi(entry[2])
		u.gid, _ = strconv.Atoi(entry[3])
	} else if err != nil || number < 0 {
		return user{}, fmt.Errorf("the image knows no user %q", name)
	} else {
		u.uid = number
	}
	if hasGroup {
		if u.gid, err = f.lookUpGroup(group); err != nil {
			return user{}, err
		}
	}
	u.groups = []int{u.gid}
	return u, f.addMemberships(&u)
}

// accountEntry returns the fields of the entry with a name or a number, or nil.
func (f *filesystem) accountEntry(file string, fields int, key string) []string {
	content, _ := f.readFile(file)
	for line := range strings.Lines(string(content)) {
		entry := strings.Split(strings.TrimSpace(line), ":")
		if len(entry) >= fields && (entry[0] == key || entry[2] == key) {
			return entry
		}
	}
	return nil
}

func (f *filesystem) lookUpGroup(group string) (int, error) {
	if entry := f.accountEntry("/etc/group", 4, group); entry != nil {
		group = entry[2]
	}
	gid, err := strconv.Atoi(group)
	if err != nil || gid < 0 {
		return 0, fmt.Errorf("the image knows no group %q", group)
	}
	return gid, nil
}

// addMemberships adds the groups that list the user.
func (f *filesystem) addMemberships(u *user) error {
	if u.name == "" {
		return nil
	}
	content, _ := f.readFile("/etc/group")
	var groups []string
	for line := range strings.Lines(string(content)) {
		entry := strings.Split(strings.TrimSpace(line), ":")
		if len(entry) >= 4 && slices.Contains(strings.Split(entry[3], ","), u.name) {
			groups = append(groups, entry[2])
		}
	}
	return f.addGroups(u, groups)
}

func (f *filesystem) addGroups(u *user, groups []string) error {
	for _, group := range groups {
		gid, err := f.lookUpGroup(group)
		if err != nil {
			return err
		}
		if !slices.Contains(u.groups, gid) {
			u.groups = append(u.groups, gid)
		}
	}
	return nil
}
