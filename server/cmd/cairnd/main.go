// Command cairnd is the server.
package main

func main() {}
