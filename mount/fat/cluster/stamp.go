package cluster

import "time"

// Stamp turns a date and a time of DOS into a time, and adds ms10 hundredths of
// a second (0 to 199) to its steps of two seconds. Both formats keep local time;
// it is taken for UTC. What is no date, such as 0, gives the zero time.
//
//	date  15…9 year since 1980   8…5 month   4…0 day
//	time  15…11 hour   10…5 minute   4…0 two seconds
func Stamp(date, clock uint16, ms10 byte) time.Time {
	year, month, day := 1980+int(date>>9), time.Month(date>>5&15), int(date&31)
	hour, minute, second := int(clock>>11), int(clock>>5&63), 2*int(clock&31)
	if hour > 23 || minute > 59 || second > 59 || ms10 > 199 {
		return time.Time{}
	}
	t := time.Date(year, month, day, hour, minute, second, int(ms10)*int(10*time.Millisecond), time.UTC)
	if t.Day() != day || t.Month() != month {
		return time.Time{} // no such day
	}
	return t
}
