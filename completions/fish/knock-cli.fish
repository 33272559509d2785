# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_knock_cli_global_optspecs
    string join \n c/config= r/rule= h/host= s/sequence= 4/ipv4 6/ipv6 source= d/delay= u/udp w/wait= within= proxy i/identity= close lifetime= address= widen json n/dry-run v/verbose q/quiet help V/version
end

function __fish_knock_cli_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_knock_cli_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_knock_cli_using_subcommand
    set -l cmd (__fish_knock_cli_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c knock-cli -n "__fish_knock_cli_needs_command" -s c -l config -d 'The file with the rules; default: $KNOCK_CONFIG, else ~/.config/knock/config.json, else config.json in the current directory, else in the directory of this program' -r -F
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s r -l rule -d 'The rule of the file; or a rule of the server, at a host to which the file has the way for signed packets' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s h -l host -d 'The host: a name or an address; or @NAME, all hosts of the rule NAME. Several with several -h. Default: `host` of the rule' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s s -l sequence -d 'Knock these ports, separated by commas, instead of the sequence of a rule; `-` reads them from standard input, because every user of this machine can see a command line' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l source -d 'Knock and connect from this address of this machine' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s d -l delay -d 'The gap between two knocks, in milliseconds; default: 40. Each knock is a separate flow, and a network can send flows along different routes: without a gap a later knock can overtake an earlier one' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s w -l wait -d 'Wait until this TCP port is open, and knock again if it stays shut; default: `wait` of the rule' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l within -d 'The limit of the waiting, in seconds' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s i -l identity -d 'Sign the packet with the ssh key of this file; a public key means one that the ssh agent holds. Default: `identity` of the rule, else the first key of the agent and of ~/.ssh that can' -r -F
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l lifetime -d 'Open the rule for so long, as 90s, 10m or 2h; not longer than the rule says' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l address -d 'Open the rule for this address; or for `source`, the address from which the server receives the packet. Default: the own address, and `source` where that is a private one' -r
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s 4 -l ipv4 -d 'Knock over IPv4 only; default: over IPv4 and IPv6'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s 6 -l ipv6 -d 'Knock over IPv6 only'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s u -l udp -d 'Send every knock by UDP'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l proxy -d 'Knock, wait, and carry the connection on standard input and output, as ProxyCommand of ssh. The rule is that with this host, or -r; a host without a rule is connected to without knocks'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l close -d 'End the grant instead of opening the rule'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l widen -d 'Open the rule for the prefix of the address, /24 or /64, where key and rule permit it'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l json -d 'Print the result as JSON, without the sequence'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s n -l dry-run -d 'Show what would be done, and send nothing'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s v -l verbose -d 'Print each knock and its destination address'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s q -l quiet -d 'Print only errors'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -l help -d 'Print this help'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s V -l version -d 'Print version'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -a "list" -d 'List the rules of the file with their hosts and ports, without the sequences'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -a "add" -d 'Add what an administrator sent to the file: rules in JSON, or a knock:// URL for signed packets. A rule with the same name and host is replaced; of one with signed packets, a URL replaces only what it says'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -a "ssh" -d 'Run ssh with these arguments, through a knock at each host that has a rule'
complete -c knock-cli -n "__fish_knock_cli_using_subcommand list" -s c -l config -d 'The file with the rules' -r -F
complete -c knock-cli -n "__fish_knock_cli_using_subcommand list" -l names -d 'Print only the names, for completions'
complete -c knock-cli -n "__fish_knock_cli_using_subcommand list" -l json -d 'Print a JSON document'
complete -c knock-cli -n "__fish_knock_cli_using_subcommand add" -s c -l config -d 'The file with the rules; default: $KNOCK_CONFIG, else ~/.config/knock/config.json' -r -F
complete -c knock-cli -n "__fish_knock_cli_using_subcommand add" -l name -d 'Call the rule NAME, as the first operand does; default: its name, or the host of the URL' -r
complete -c knock-cli -n "__fish_knock_cli_using_subcommand add" -s w -l wait -d 'With a URL: wait until this TCP port is open' -r
complete -c knock-cli -n "__fish_knock_cli_using_subcommand add" -s r -l rule -d 'With a URL: the name of the rule on the server; default: the only one that the key may use' -r
complete -c knock-cli -n "__fish_knock_cli_using_subcommand add" -s i -l identity -d 'With a URL: sign with the ssh key of this file' -r -F
complete -c knock-cli -n "__fish_knock_cli_needs_command" -s r -l rule -x -a '(knock-cli list --names 2>/dev/null)'
complete -c knock-cli -n "__fish_knock_cli_needs_command" -a '(knock-cli list --names 2>/dev/null)'
