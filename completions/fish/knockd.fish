complete -c knockd -s c -l config -d 'The configuration file' -r -F
complete -c knockd -s i -l interface -d 'Listen on this interface instead of those in the configuration; may be given several times; `any` is all' -r
complete -c knockd -l log -d 'Where the log goes, instead of where the configuration says' -r -f -a "stderr\t'Standard error, a line each'
syslog\t'syslog, facility authpriv'
journal\t'The journal, with fields'"
complete -c knockd -s t -l check -d 'Check the configuration and exit: 0 where it is valid, 78 where it is not'
complete -c knockd -s v -l verbose -d 'Log more: -v debug, -vv trace'
complete -c knockd -s q -l quiet -d 'Log warnings and errors only'
complete -c knockd -s h -l help -d 'Print help (see more with \'--help\')'
complete -c knockd -s V -l version -d 'Print version'
