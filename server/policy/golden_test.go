package policy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "cairn/proto/cairn/v1"
)

var update = flag.Bool("update", false, "write what comes out into testdata/*.txt")

// TestGolden runs testdata/*.txt. A file has cases, with an empty line between
// them. A case is some lines of input, a line "----", and what must come out. "#"
// begins a line of comment. The first line of input is what to do and in which
// zone; of what follows, lines of one policy are as parsePolicy reads them. Times
// without an offset are the zone's. See the functions below for the rest.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for text := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
				in, want, ok := strings.Cut(text, "\n----")
				if !ok { // a comment by itself
					all = append(all, text)
					continue
				}
				got, err := golden(in)
				if err != nil {
					t.Fatalf("%v, in\n%s", err, in)
				}
				got = strings.TrimRight("\n"+got, "\n")
				if got != strings.TrimRight(want, "\n") && !*update {
					t.Errorf("of\n%s\n----%s\ncame out, not%s", in, got, want)
				}
				all = append(all, in+"\n----"+got)
			}
			if *update {
				if err := os.WriteFile(file, []byte(strings.Join(all, "\n\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// golden gives what comes out of the input of a case.
func golden(in string) (string, error) {
	g := &goldenCase{}
	var lines []string
	for l := range strings.SplitSeq(in, "\n") {
		if !strings.HasPrefix(l, "#") {
			lines = append(lines, l)
		}
	}
	what, zone, _ := strings.Cut(lines[0], " ")
	g.p.Schedule = &pb.Schedule{TimeZone: zone}
	if g.loc = Zone(g.p.Schedule); g.loc.String() != zone {
		return "", fmt.Errorf("no zone %q", zone)
	}
	g.in = lines[1:]
	var err error
	switch what {
	case "runs":
		err = g.runs()
	case "changes":
		err = g.changes()
	case "kept":
		err = g.kept()
	case "long":
		err = g.long()
	case "foresee":
		err = g.foresee()
	case "shortens":
		err = g.shortens()
	default:
		err = fmt.Errorf("cannot do %q", what)
	}
	return g.out.String(), err
}

type goldenCase struct {
	loc *time.Location
	p   pb.Policy
	in  []string
	out strings.Builder
}

func (g *goldenCase) printf(format string, args ...any) { fmt.Fprintf(&g.out, format+"\n", args...) }

func (g *goldenCase) run(t time.Time) {
	g.printf("%s  %s", t.In(g.loc).Format(local), t.Format("2006-01-02 15:04Z"))
}

const (
	minutely = "2006-01-02 15:04"
	local    = "Mon 2006-01-02 15:04 -0700"
)

// interval reads "2026-03-27 00:00 .. 2026-03-31 00:00": both ends belong to it.
func (g *goldenCase) interval(line string) (from, to time.Time, err error) {
	a, b, ok := strings.Cut(line, " .. ")
	if !ok {
		return from, to, fmt.Errorf("%q is no range", line)
	}
	if from, err = time.ParseInLocation(minutely, a, g.loc); err == nil {
		to, err = time.ParseInLocation(minutely, b, g.loc)
	}
	return from, to, err
}

// policyLines reads the lines of the policy, and gives the others, of which there
// must be some.
func (g *goldenCase) policyLines() (rest []string, err error) {
	for _, l := range g.in {
		switch word, _, _ := strings.Cut(l, " "); word {
		case "keep", "daily", "weekly", "hourly":
			if err := parsePolicy(&g.p, l); err != nil {
				return nil, err
			}
		default:
			rest = append(rest, l)
		}
	}
	if len(rest) == 0 {
		err = fmt.Errorf("there is only a policy")
	}
	return rest, err
}

// runs has a schedule and a range, and lists all runs.
func (g *goldenCase) runs() error {
	rest, err := g.policyLines()
	if err != nil {
		return err
	}
	from, to, err := g.interval(rest[0])
	if err != nil {
		return err
	}
	for t := range Runs(g.p.Schedule, from.Add(-1), to) {
		g.run(t)
	}
	return nil
}

// changes is runs for years of a daily schedule: it lists only those that are not
// on the day after the one before, at the same time and offset, and counts all.
func (g *goldenCase) changes() error {
	rest, err := g.policyLines()
	if err != nil {
		return err
	}
	from, to, err := g.interval(rest[0])
	if err != nil {
		return err
	}
	var want string
	n := 0
	for t := range Runs(g.p.Schedule, from.Add(-1), to) {
		is := t.In(g.loc)
		if n++; n > 1 && is.Format(local) != want {
			g.run(t)
		}
		_, offset := is.Zone()
		want = t.Add(24 * time.Hour).In(time.FixedZone("", offset)).Format(local)
	}
	g.printf("%d runs", n)
	return nil
}

// point reads "2026-03-29 03:30", a run, whose snapshot was taken at once; or
// "… taken 2026-03-29 05:00" if not; or "asked 2026-03-29 03:30". Each may end in
// "until …", the date that somebody gave.
func (g *goldenCase) point(line string) (pt Point, err error) {
	at := func(s string) (t time.Time) {
		if err == nil {
			t, err = time.ParseInLocation(minutely, s, g.loc)
		}
		return t
	}
	line, until, ok := strings.Cut(line, " until ")
	if ok {
		pt.RetainUntil = at(until)
	}
	if asked, ok := strings.CutPrefix(line, "asked "); ok {
		pt.Snapshot = at(asked)
		return pt, err
	}
	slot, taken, ok := strings.Cut(line, " taken ")
	pt.Slot = at(slot)
	if pt.Snapshot = pt.Slot; ok {
		pt.Snapshot = at(taken)
	}
	return pt, err
}

func (g *goldenCase) keptLine(pt Point, k Kept) {
	until := "no end"
	if !k.Until.IsZero() {
		until = k.Until.In(g.loc).Format(local)
	}
	g.printf("%s  %s  %s", pt.Snapshot.In(g.loc).Format(local), until, strings.TrimPrefix(k.Rule.String(), "RETENTION_RULE_"))
}

// kept has a policy and points, and says until when each is kept, and why.
func (g *goldenCase) kept() error {
	rest, err := g.policyLines()
	if err != nil {
		return err
	}
	p := &g.p
	for _, l := range rest {
		if l == "no policy" {
			p = nil
			continue
		}
		pt, err := g.point(l)
		if err != nil {
			return err
		}
		g.keptLine(pt, Keep(p, pt))
	}
	return nil
}

// long has a policy and a range, and says of the runs in it, as kept does, those
// that are not kept by the daily rule, and counts the others.
func (g *goldenCase) long() error {
	rest, err := g.policyLines()
	if err != nil {
		return err
	}
	from, to, err := g.interval(rest[0])
	if err != nil {
		return err
	}
	others := 0
	for t := range Runs(g.p.Schedule, from.Add(-1), to) {
		pt := Point{Snapshot: t, Slot: t}
		if k := Keep(&g.p, pt); k.Rule == pb.RetentionRule_RETENTION_RULE_DAILY {
			others++
		} else {
			g.keptLine(pt, k)
		}
	}
	g.printf("%d others", others)
	return nil
}

// foresee has a policy, points and a range, and lists what is left at its end of
// the points and of what the range's runs made.
func (g *goldenCase) foresee() error {
	rest, err := g.policyLines()
	if err != nil {
		return err
	}
	var have []Point
	for _, l := range rest[:len(rest)-1] {
		pt, err := g.point(l)
		if err != nil {
			return err
		}
		have = append(have, pt)
	}
	from, to, err := g.interval(rest[len(rest)-1])
	if err != nil {
		return err
	}
	var runs []time.Time
	for t := range Runs(g.p.Schedule, from.Add(-1), to) {
		runs = append(runs, t)
	}
	for _, f := range Foresee(&g.p, have, runs, to) {
		if f.KeptAtEnd {
			g.keptLine(f.Point, f.Kept)
		}
	}
	return nil
}

// shortens has a policy, a line "then", perhaps with another zone, and another
// policy.
func (g *goldenCase) shortens() error {
	now := &pb.Policy{Schedule: &pb.Schedule{TimeZone: g.p.Schedule.TimeZone}}
	into := &g.p
	for _, l := range g.in {
		if zone, ok := strings.CutPrefix(l, "then"); ok {
			into = now
			if zone != "" {
				now.Schedule.TimeZone = zone[1:]
			}
		} else if err := parsePolicy(into, l); err != nil {
			return err
		}
	}
	g.printf("%v", Shortens(&g.p, now))
	return nil
}
